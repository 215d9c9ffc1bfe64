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

// Kept for the life of the process, as PyTorch itself is.
PyTypeObject* tensor_type() {
  static auto* const type = reinterpret_cast<PyTypeObject*>(
      py::module_::import("torch").attr("Tensor").cast<py::object>().release().ptr());
  return type;
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
  Tensor result;
  if (object == Py_None) return result;
  if (!PyObject_TypeCheck(object, tensor_type()))
    throw py::type_error("expected a tensor or None, got " + std::string(Py_TYPE(object)->tp_name));
  dlpack::TensorView tensor{};
  if (exchange_table().tensor_from_object(object, &tensor) != 0) throw py::error_already_set();
  if (tensor.dimensions > static_cast<int32_t>(result.sizes.size()))
    throw py::type_error("expected a tensor of at most 3 dimensions, got " +
                         std::to_string(tensor.dimensions));
  result.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  result.dtype = tensor.dtype;
  result.dimensions = tensor.dimensions;
  std::copy_n(tensor.shape, tensor.dimensions, result.sizes.begin());
  std::copy_n(tensor.strides, tensor.dimensions, result.strides.begin());
  return result;
}

}  // namespace milkernels
