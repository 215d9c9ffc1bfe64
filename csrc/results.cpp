#include "results.h"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>

#include "kept_memory.h"
#include "tensors.h"

namespace milkernels {
namespace {

namespace py = pybind11;

// Below this PyTorch's allocator mostly hands out memory that was in use before.
constexpr int64_t kLargeBytes = int64_t{1} << 20;

constexpr int32_t kMostDimensions = 8;

struct Result {
  dlpack::ManagedTensor managed{};
  std::array<int64_t, kMostDimensions> sizes{};
  std::array<int64_t, kMostDimensions> strides{};
  Block block;
};

void drop(dlpack::ManagedTensor* managed) {
  const std::unique_ptr<Result> result(static_cast<Result*>(managed->owner));
  give_block(result->block);
}

// Whether all elements fill their memory without gaps or overlaps, in whatever order of the axes.
bool is_dense(const dlpack::TensorView& view, int64_t elements) {
  int64_t side_by_side = 1;
  for (int32_t axis = 0; axis < view.dimensions && side_by_side < elements; ++axis)
    for (int32_t next = 0; next < view.dimensions; ++next)
      if (view.shape[next] > 1 && view.strides[next] == side_by_side)
        side_by_side *= view.shape[next];
  return side_by_side == elements;
}

// The dtype of an empty tensor; nothing where PyTorch is to make it.
std::optional<dlpack::DataType> dtype_of(const dlpack::TensorView& like, py::handle dtype) {
  const TorchModule& torch = torch_module();
  if (dtype.is_none()) return like.dtype;
  if (dtype.ptr() == torch.int16) return dlpack::DataType{dlpack::kInteger, 16, 1};
  if (dtype.ptr() == torch.int32) return dlpack::DataType{dlpack::kInteger, 32, 1};
  return std::nullopt;
}

// Null where PyTorch is to make it.
py::object kept_like(py::handle tensor, py::handle dtype) {
  const TorchModule& torch = torch_module();
  if (Py_TYPE(tensor.ptr()) != torch.tensor && Py_TYPE(tensor.ptr()) != torch.parameter) return {};
  dlpack::TensorView view{};
  if (torch.exchange->tensor_from_object(tensor.ptr(), &view) != 0) {
    PyErr_Clear();
    return {};
  }
  if (view.device_type != dlpack::kCpu || view.dimensions > kMostDimensions) return {};
  const auto own = dtype_of(view, dtype);
  if (!own) return {};
  view.dtype = *own;
  const int64_t elements = std::accumulate(view.shape, view.shape + view.dimensions, int64_t{1},
                                           std::multiplies<int64_t>());
  const int64_t bytes = elements * (view.dtype.bits / 8);
  if (bytes < kLargeBytes || !is_dense(view, elements)) return {};
  auto result = std::make_unique<Result>();
  result->block = take_block(static_cast<size_t>(bytes));
  if (result->block.data == nullptr) return {};
  std::copy_n(view.shape, view.dimensions, result->sizes.begin());
  std::copy_n(view.strides, view.dimensions, result->strides.begin());
  view.data = result->block.data;
  view.byte_offset = 0;
  view.shape = result->sizes.data();
  view.strides = result->strides.data();
  result->managed = {dlpack::kMajorVersion, 0, result.get(), &drop, 0, view};
  void* object = nullptr;
  // From here on the memory is PyTorch's to drop.
  if (torch.exchange->object_from_managed(&result.release()->managed, &object) != 0)
    throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

}  // namespace

py::object empty_like(py::handle tensor, py::handle dtype) {
  if (tensor.is_none()) return py::none();
  if (py::object kept = kept_like(tensor, dtype)) return kept;
  const TorchModule& torch = torch_module();
  PyObject* arguments[] = {tensor.ptr(), dtype.ptr()};
  PyObject* keywords = dtype.is_none() ? nullptr : torch.dtype_keywords;
  PyObject* result = PyObject_Vectorcall(torch.empty_like, arguments, 1, keywords);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

}  // namespace milkernels
