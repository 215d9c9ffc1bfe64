#include "tensors.h"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <stdexcept>

namespace milkernels {
namespace {

namespace py = pybind11;

constexpr const char* kTable = "__dlpack_c_exchange_api__";

const dlpack::ExchangeTable* find_table(const py::object& type) {
  if (!py::hasattr(type, kTable)) return nullptr;
  const auto capsule = type.attr(kTable).cast<py::capsule>();
  const auto* table = static_cast<const dlpack::ExchangeTable*>(capsule.get_pointer());
  while (table != nullptr && table->major_version != dlpack::kMajorVersion) table = table->previous;
  return table;
}

PyObject* kept(const py::object& object) { return py::object(object).release().ptr(); }

PyTypeObject* kept_type(const py::object& type) {
  return reinterpret_cast<PyTypeObject*>(kept(type));
}

constexpr int32_t kMostDimensions = 3;

Tensor copied(const dlpack::TensorView& view) {
  Tensor result;
  result.data = static_cast<char*>(view.data) + view.byte_offset;
  result.dtype = view.dtype;
  result.dimensions = view.dimensions;
  std::copy_n(view.shape, view.dimensions, result.sizes.begin());
  std::copy_n(view.strides, view.dimensions, result.strides.begin());
  return result;
}

bool are_rows(const dlpack::TensorView& view) {
  int64_t stride = 1;
  for (int32_t axis = view.dimensions - 1; axis >= 0; --axis) {
    if (view.strides[axis] != stride) return false;
    stride *= view.shape[axis];
  }
  return true;
}

// Whether PyTorch has yet to negate what is in memory.
bool is_negated(PyObject* object) {
  const auto answer =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(torch_module().is_neg, object));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

}  // namespace

const TorchModule& torch_module() {
  // Not a plain static: imports let other threads run, which would wait for it with the lock that
  // this one needs.
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<TorchModule> storage;
  return storage
      .call_once_and_store_result([] {
        const py::module_ torch = py::module_::import("torch");
        const py::object tensor = torch.attr("Tensor");
        const dlpack::ExchangeTable* table = find_table(tensor);
        if (table == nullptr)
          throw std::runtime_error("torch.Tensor has no DLPack exchange table of version 1");
        return TorchModule{kept_type(tensor),
                           kept_type(py::module_::import("torch.nn").attr("Parameter")),
                           kept(torch.attr("int32")),
                           kept(torch.attr("int16")),
                           kept(torch.attr("empty_like")),
                           PyUnicode_InternFromString("new_empty"),
                           kept(py::make_tuple("dtype")),
                           kept(tensor.attr("is_neg")),
                           table};
      })
      .get_stored();
}

Tensor tensor_of(PyObject* object) {
  if (object == Py_None) return {};
  const TorchModule& torch = torch_module();
  if (!PyObject_TypeCheck(object, torch.tensor))
    throw py::type_error("expected a tensor or None, got " + std::string(Py_TYPE(object)->tp_name));
  dlpack::TensorView view{};
  if (torch.exchange->tensor_from_object(object, &view) != 0) throw py::error_already_set();
  if (view.dimensions > kMostDimensions)
    throw py::type_error("expected a tensor of at most 3 dimensions, got " +
                         std::to_string(view.dimensions));
  return copied(view);
}

std::optional<Tensor> plain_tensor_of(PyObject* object) {
  if (object == Py_None) return Tensor{};
  const TorchModule& torch = torch_module();
  if (Py_TYPE(object) != torch.tensor && Py_TYPE(object) != torch.parameter) return std::nullopt;
  dlpack::TensorView view{};
  if (torch.exchange->tensor_from_object(object, &view) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  if (view.device_type != dlpack::kCpu || view.dimensions > kMostDimensions) return std::nullopt;
  // Only a conjugate's imaginary part is: every other number of a complex tensor.
  if (!are_rows(view) && is_negated(object)) return std::nullopt;
  return copied(view);
}

}  // namespace milkernels
