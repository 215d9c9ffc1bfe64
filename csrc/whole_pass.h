// What functions share that check a call's tensors, allocate its results and run its kernel: one by one
// in Python that costs small calls more than their kernels.
#pragma once

#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "bindings.h"

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

// Nothing where the kernels do not take these tensors as they are: then the caller says what is wrong
// with them, or prepares them.
inline std::optional<Frames> frames_of(py::handle x, py::handle mask, int dim) {
  const auto frames = plain_tensor_of(x.ptr());
  if (!frames || frames->data == nullptr || !are_frames(*frames)) return std::nullopt;
  const auto real = plain_tensor_of(mask.ptr());
  if (!real) return std::nullopt;
  const Tensor view = by_class(*frames, dim);
  const bool fits = real->dimensions == 2 && real->sizes[0] == view.sizes[0] &&
                    real->sizes[1] == view.sizes[2] && real->dtype.code == dlpack::kBool;
  if (real->data != nullptr && !fits) return std::nullopt;
  return Frames{view, *real};
}

// Something of PyTorch's, kept for the life of the process as PyTorch itself is.
inline PyObject* kept(const char* name) {
  return py::module_::import("torch").attr(name).cast<py::object>().release().ptr();
}

inline py::object checked(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// An empty tensor like x but for its sizes and, if one is given, its dtype.
inline py::object new_empty(py::handle x, std::initializer_list<int64_t> sizes,
                            PyObject* dtype = nullptr) {
  static PyObject* const name = PyUnicode_InternFromString("new_empty");
  static PyObject* const keywords = py::make_tuple("dtype").release().ptr();
  std::vector<py::object> numbers;
  std::vector<PyObject*> arguments = {x.ptr()};
  for (const int64_t size : sizes) {
    numbers.push_back(py::int_(size));
    arguments.push_back(numbers.back().ptr());
  }
  const size_t positional = arguments.size();
  if (dtype != nullptr) arguments.push_back(dtype);
  return checked(PyObject_VectorcallMethod(name, arguments.data(),
                                           positional | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                           dtype != nullptr ? keywords : nullptr));
}

// Bag values (bags, classes) in x's dtype.
inline py::object bag_values(py::handle x, const Tensor& view) {
  return new_empty(x, {view.sizes[0], view.sizes[1]});
}

// (rows, bags, classes) in the dtype that x is computed in.
inline py::object bag_rows(py::handle x, const Tensor& view, int64_t rows) {
  static PyObject* const float32 = kept("float32");
  return new_empty(x, {rows, view.sizes[0], view.sizes[1]},
                   view.dtype.bits == 16 ? float32 : nullptr);
}

inline py::object empty_like(py::handle tensor) {
  static PyObject* const function = kept("empty_like");
  if (tensor.is_none()) return py::none();
  return checked(PyObject_CallOneArg(function, tensor.ptr()));
}

// Bag values' gradient as kernels read it.
inline py::object contiguous(py::handle gradient) {
  const Tensor view = tensor_of(gradient.ptr());
  if (view.strides[1] == 1 && view.strides[0] == view.sizes[1])
    return py::reinterpret_borrow<py::object>(gradient);
  return gradient.attr("contiguous")();
}

}  // namespace milkernels
