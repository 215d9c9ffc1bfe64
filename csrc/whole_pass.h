// What functions share that check a call's tensors, allocate its results and run its kernel: one by
// one in Python that costs small calls more than their kernels.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "bindings.h"
#include "results.h"

namespace milkernels {

// A (bags, classes, frames) view of a tensor whose frames are its axis `dim`.
inline Tensor by_class(Tensor tensor, int dim) {
  if (dim == 1) {
    std::swap(tensor.sizes[1], tensor.sizes[2]);
    std::swap(tensor.strides[1], tensor.strides[2]);
  }
  return tensor;
}

// Of frames without gaps: lanes run along the axis that they are contiguous along.
inline Walk walk_of(const Tensor& view, int threads) {
  const bool along_classes = view.strides[1] == 1 && view.strides[2] != 1;
  return {along_classes ? 1 : 2, threads};
}

// Frames without gaps, in one of the two layouts.
inline bool are_frames(const Tensor& x) {
  const bool floats = (x.dtype.code == dlpack::kFloat && x.dtype.bits >= 16) ||
                      (x.dtype.code == dlpack::kBFloat && x.dtype.bits == 16);
  const auto& [bags, rows, columns] = x.sizes;
  const auto& [of_bag, of_row, of_column] = x.strides;
  const bool dense = (of_column == 1 && of_row == columns) || (of_row == 1 && of_column == rows);
  return floats && x.dtype.lanes == 1 && x.dimensions == 3 && x.count() > 0 && dense &&
         of_bag == rows * columns;
}

// x as a (bags, classes, frames) view, with its mask.
struct Frames {
  Tensor x;
  Tensor mask;
};

// Nothing where the kernels do not take these tensors as they are: then the caller says what is
// wrong with them, or prepares them.
inline std::optional<Frames> frames_of(py::handle x, py::handle mask, int dim) {
  const auto frames = plain_tensor_of(x.ptr());
  if (!frames || !are_frames(*frames)) return std::nullopt;
  const auto real = plain_tensor_of(mask.ptr());
  if (!real) return std::nullopt;
  const Tensor view = by_class(*frames, dim);
  const bool fits = real->dimensions == 2 && real->sizes[0] == view.sizes[0] &&
                    real->sizes[1] == view.sizes[2] && real->dtype.code == dlpack::kBool;
  if (!real->is_none() && !fits) return std::nullopt;
  return Frames{view, *real};
}

// Each of these holds for None, too, and not for what is no plain tensor. x is the view of frames.
inline bool are_scores(const std::optional<Tensor>& given, const Tensor& x) {
  if (!given || given->is_none()) return given.has_value();
  return given->dimensions == 3 && given->dtype.code == x.dtype.code &&
         given->dtype.bits == x.dtype.bits && given->sizes == x.sizes &&
         given->strides == x.strides;
}

inline bool is_of_classes(const std::optional<Tensor>& given, const Tensor& x) {
  if (!given || given->is_none()) return given.has_value();
  return given->dimensions == 1 && given->sizes[0] == x.sizes[1] && given->strides[0] == 1 &&
         given->dtype.code == dlpack::kFloat && given->dtype.bits == (x.dtype.bits == 64 ? 64 : 32);
}

// Scores as a (bags, classes, frames) view.
inline std::optional<Tensor> scores_of(py::handle scores, int dim) {
  const auto given = plain_tensor_of(scores.ptr());
  if (!given) return std::nullopt;
  return by_class(*given, dim);
}

inline py::object checked(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// An empty tensor of up to two sizes in x's dtype.
inline py::object new_empty(py::handle x, std::initializer_list<int64_t> sizes) {
  py::object numbers[2];
  PyObject* arguments[3] = {x.ptr()};
  size_t count = 0;
  for (const int64_t size : sizes) {
    numbers[count] = py::int_(size);
    arguments[count + 1] = numbers[count].ptr();
    ++count;
  }
  const py::tuple none(0);
  if (count == 0) arguments[++count] = none.ptr();
  return checked(PyObject_VectorcallMethod(torch_module().new_empty, arguments,
                                           (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// Bag values (bags, classes) in x's dtype.
inline py::object bag_values(py::handle x, const Tensor& view) {
  return new_empty(x, {view.sizes[0], view.sizes[1]});
}

// What a forward pass leaves for its backward pass, in memory that takes a tenth of the time that a
// tensor takes to have.
inline py::object left_bytes(int64_t bytes) {
  return checked(PyByteArray_FromStringAndSize(nullptr, bytes));
}

// Rows (bags, classes) of what x is computed in.
inline py::object left_rows(const Tensor& x, int64_t rows) {
  const int64_t width = x.dtype.bits == 64 ? sizeof(double) : sizeof(float);
  return left_bytes(rows * x.sizes[0] * x.sizes[1] * width);
}

inline Tensor left_tensor(py::handle left) {
  if (!PyByteArray_CheckExact(left.ptr()))
    throw py::type_error("expected what the forward pass left");
  Tensor result;
  result.data = PyByteArray_AS_STRING(left.ptr());
  return result;
}

// Bag values' gradient as kernels read it.
inline py::object contiguous(py::handle gradient) {
  const Tensor view = tensor_of(gradient.ptr());
  if (view.strides[1] == 1 && view.strides[0] == view.sizes[1])
    return py::reinterpret_borrow<py::object>(gradient);
  return gradient.attr("resolve_neg")().attr("contiguous")();
}

// y and `left`, which the kernel fills, called with the walk, the mask, y and `left`.
template <class Kernel>
py::tuple pooled(const Frames& frames, py::handle x, const py::object& left, int threads,
                 const Kernel& kernel) {
  const py::object y = bag_values(x, frames.x);
  const Tensor to_y = tensor_of(y.ptr()), to_left = left_tensor(left);
  {
    const py::gil_scoped_release released;
    kernel(walk_of(frames.x, threads), frames.mask, to_y, to_left);
  }
  return py::make_tuple(y, left);
}

// Whether kernels walk a call's tensors as its forward pass did: hooks of saved tensors may give
// the same values back in other strides.
inline bool are_as_before(py::handle x_object, int dim, py::handle scores_object = Py_None,
                          py::handle power_object = Py_None, py::handle alpha_object = Py_None) {
  const auto frames = plain_tensor_of(x_object.ptr());
  if (!frames || frames->dimensions != 3 || !are_frames(*frames)) return false;
  const Tensor x = by_class(*frames, dim);
  return are_scores(scores_of(scores_object, dim), x) &&
         is_of_classes(plain_tensor_of(power_object.ptr()), x) &&
         is_of_classes(plain_tensor_of(alpha_object.ptr()), x);
}

// Gradients of a call's tensors, None for those that there are not, and of the two arguments that
// follow them in Python.
template <class... Gradients>
py::tuple gradients_of_call(const Gradients&... gradients) {
  return py::make_tuple(gradients..., py::none(), py::none());
}

// x's gradient: the kernel, called with the walk, x, y's gradient and x's, fills the last.
template <class Kernel>
py::object gradient_of_frames(int dim, int threads, py::handle gradient_object, py::handle x_object,
                              const Kernel& kernel) {
  const py::object gradient = contiguous(gradient_object), filled = empty_like(x_object);
  const Tensor x = by_class(tensor_of(x_object.ptr()), dim);
  const Tensor y_gradient = tensor_of(gradient.ptr());
  const Tensor x_gradient = by_class(tensor_of(filled.ptr()), dim);
  {
    const py::gil_scoped_release released;
    kernel(walk_of(x, threads), x, y_gradient, x_gradient);
  }
  return filled;
}

// A family's kernels on what the caller has prepared, and its whole passes.
template <class Forward, class Backward, class Pass, class Gradients>
void define_family(py::module_& module, const std::string& name, Forward forward, Backward backward,
                   Pass pass, Gradients gradients) {
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def((name + "_forward").c_str(), forward, released);
  module.def((name + "_backward").c_str(), backward, released);
  module.def((name + "_pass").c_str(), pass);
  module.def((name + "_gradients").c_str(), gradients);
}

}  // namespace milkernels
