#include "tensors.h"

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

// A type of PyTorch's, kept for the life of the process as PyTorch itself is.
PyTypeObject* kept_type(const char* module, const char* name) {
  py::object type = py::module_::import(module).attr(name);
  return reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

PyTypeObject* tensor_type() {
  static auto* const type = kept_type("torch", "Tensor");
  return type;
}

PyTypeObject* parameter_type() {
  static auto* const type = kept_type("torch.nn", "Parameter");
  return type;
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

}  // namespace

const dlpack::ExchangeTable& exchange_table() {
  static const dlpack::ExchangeTable* const table =
      find_table(py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(tensor_type())));
  if (table == nullptr)
    throw std::runtime_error("torch.Tensor has no DLPack exchange table of version 1");
  return *table;
}

Tensor tensor_of(PyObject* object) {
  if (object == Py_None) return {};
  if (!PyObject_TypeCheck(object, tensor_type()))
    throw py::type_error("expected a tensor or None, got " + std::string(Py_TYPE(object)->tp_name));
  dlpack::TensorView view{};
  if (exchange_table().tensor_from_object(object, &view) != 0) throw py::error_already_set();
  if (view.dimensions > kMostDimensions)
    throw py::type_error("expected a tensor of at most 3 dimensions, got " +
                         std::to_string(view.dimensions));
  return copied(view);
}

std::optional<Tensor> plain_tensor_of(PyObject* object) {
  if (object == Py_None) return Tensor{};
  if (Py_TYPE(object) != tensor_type() && Py_TYPE(object) != parameter_type()) return std::nullopt;
  dlpack::TensorView view{};
  if (exchange_table().tensor_from_object(object, &view) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  if (view.device_type != dlpack::kCpu || view.dimensions > kMostDimensions) return std::nullopt;
  return copied(view);
}

}  // namespace milkernels
