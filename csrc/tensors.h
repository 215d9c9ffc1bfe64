// PyTorch's tensors, read through DLPack's exchange table: a C interface that stays the same
// between releases, so that the extension needs none of PyTorch's headers and serves each version
// of it.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <optional>

namespace milkernels {

// What DLPack fixes, as far as it is needed here.
namespace dlpack {

constexpr uint32_t kMajorVersion = 1;

enum Code : uint8_t { kInteger = 0, kFloat = 2, kBFloat = 4, kBool = 6 };

constexpr int32_t kCpu = 1;

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct TensorView {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t dimensions;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct ManagedTensor {
  uint32_t major_version;
  uint32_t minor_version;
  void* owner;
  void (*drop)(ManagedTensor*);
  uint64_t flags;
  TensorView tensor;
};

struct ExchangeTable {
  uint32_t major_version;
  uint32_t minor_version;
  const ExchangeTable* previous;
  int (*allocate)(TensorView*, void**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from_object)(void*, void**);
  // A Python object of a tensor, which drops it with the last of its views.
  int (*object_from_managed)(ManagedTensor*, void**);
  // Describes an object's tensor, which keeps its memory. Not 0 with a Python error set if it
  // fails.
  int (*tensor_from_object)(void*, TensorView*);
  int (*current_stream)(int32_t, int32_t, void**);
};

}  // namespace dlpack

// A tensor's memory: where it lies, and its sizes and strides in elements.
struct Tensor {
  void* data = nullptr;
  dlpack::DataType dtype{};
  int dimensions = -1;  // of None; a tensor without elements has no data, either
  std::array<int64_t, 3> sizes{};
  std::array<int64_t, 3> strides{};

  bool is_none() const { return dimensions < 0; }

  int64_t count() const {
    int64_t elements = 1;
    for (int axis = 0; axis < dimensions; ++axis) elements *= sizes[axis];
    return elements;
  }

  int64_t bytes() const { return data == nullptr ? 0 : count() * (dtype.bits / 8); }
};

// What of PyTorch's Python module is used here, kept for the life of the process as PyTorch itself
// is.
struct TorchModule {
  PyTypeObject* tensor;
  PyTypeObject* parameter;
  PyObject* int32;
  PyObject* int16;
  PyObject* empty_like;
  PyObject* new_empty;       // a method's name
  PyObject* dtype_keywords;  // ("dtype",)
  PyObject* is_neg;
  const dlpack::ExchangeTable* exchange;
};

// Throws std::runtime_error where torch.Tensor has no exchange table that is known here.
const TorchModule& torch_module();

// Throws TypeError for what is neither a tensor of up to three dimensions nor None.
Tensor tensor_of(PyObject* object);

// The same of torch.Tensor and torch.nn.Parameter themselves on the CPU, as they are in memory, and
// nothing for all else.
std::optional<Tensor> plain_tensor_of(PyObject* object);

}  // namespace milkernels

namespace pybind11::detail {

template <>
struct type_caster<milkernels::Tensor> {
  PYBIND11_TYPE_CASTER(milkernels::Tensor, const_name("torch.Tensor | None"));

  bool load(handle source, bool) {
    value = milkernels::tensor_of(source.ptr());
    return true;
  }
};

}  // namespace pybind11::detail
