// What the Python module's functions take, and how it becomes a problem.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "dispatch.h"

namespace milkernels {

namespace py = pybind11;

using Address = std::uintptr_t;
using Size3 = std::array<int64_t, 3>;

// An address and its strides.
using Frames = std::tuple<Address, int64_t, int64_t, int64_t>;
using Mask = std::tuple<Address, int64_t, int64_t>;

// How frame tensors lie in memory: sizes, whether frames are contiguous (else classes are), threads.
using Layout = std::tuple<Size3, bool, int>;

template <class T = void>
inline T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline size_t size(int64_t count) { return static_cast<size_t>(count); }

inline FrameTensor frame_tensor(const Frames& frames) {
  const auto& [address, stride_bag, stride_class, stride_frame] = frames;
  return {pointer(address), stride_bag, stride_class, stride_frame};
}

inline void set_problem(Problem& problem, const Layout& layout, const Mask& mask,
                        bool from_logits) {
  const auto& [sizes, frames_contiguous, threads] = layout;
  problem.bags = sizes[0];
  problem.classes = sizes[1];
  problem.frames = sizes[2];
  problem.frames_contiguous = frames_contiguous;
  problem.threads = threads;
  problem.from_logits = from_logits;
  const auto& [address, stride_bag, stride_frame] = mask;
  problem.mask = pointer<const uint8_t>(address);
  problem.mask_stride_bag = stride_bag;
  problem.mask_stride_frame = stride_frame;
}

inline const Kernels& kernels(int element) { return kernels_for(static_cast<Element>(element)); }

// Functions of their own files.
void define_packed(py::module_& module);
void define_pool_bce(py::module_& module);

}  // namespace milkernels
