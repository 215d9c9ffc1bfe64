// What the Python module's functions take, and how it becomes a problem.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "dispatch.h"
#include "tensors.h"

namespace milkernels {

namespace py = pybind11;

// How frame tensors (bags, classes, frames) are walked: along frames (2) or classes (1), one of
// which they are contiguous along, and on how many threads.
using Walk = std::tuple<int, int>;

inline size_t size(int64_t count) { return static_cast<size_t>(count); }

inline FrameTensor frame_tensor(const Tensor& tensor) {
  return {tensor.data, tensor.strides[0], tensor.strides[1], tensor.strides[2]};
}

inline void set_problem(Problem& problem, const Walk& walk, const Tensor& frames,
                        const Tensor& mask, bool from_logits) {
  problem.bags = frames.sizes[0];
  problem.classes = frames.sizes[1];
  problem.frames = frames.sizes[2];
  problem.frames_contiguous = std::get<0>(walk) == 2;
  problem.threads = std::get<1>(walk);
  problem.from_logits = from_logits;
  problem.mask = static_cast<const uint8_t*>(mask.data);
  problem.mask_stride_bag = mask.strides[0];
  problem.mask_stride_frame = mask.strides[1];
}

template <class P>
P problem_of(const Walk& walk, bool from_logits, const Tensor& x, const Tensor& mask = {}) {
  P problem;
  set_problem(problem, walk, x, mask, from_logits);
  problem.x = frame_tensor(x);
  return problem;
}

inline AverageProblem average_problem(int member, int activation, bool from_logits,
                                      const Walk& walk, const Tensor& x, const Tensor& scores,
                                      const Tensor& power, const Tensor& alpha,
                                      const Tensor& mask = {}) {
  auto problem = problem_of<AverageProblem>(walk, from_logits, x, mask);
  problem.member = static_cast<Member>(member);
  problem.activation = static_cast<Activation>(activation);
  problem.scores = frame_tensor(scores);
  problem.power = power.data;
  problem.alpha = alpha.data;
  return problem;
}

inline ClassAttentionProblem class_attention_problem(int activation, bool from_logits,
                                                     const Walk& walk, const Tensor& x,
                                                     const Tensor& scores,
                                                     const Tensor& mask = {}) {
  auto problem = problem_of<ClassAttentionProblem>(walk, from_logits, x, mask);
  problem.activation = static_cast<Activation>(activation);
  problem.scores = frame_tensor(scores);
  return problem;
}

inline Element element_of(const Tensor& tensor) {
  const auto& [code, bits, lanes] = tensor.dtype;
  if (lanes == 1) {
    if (code == dlpack::kFloat && bits == 64) return Element::kFloat64;
    if (code == dlpack::kFloat && bits == 32) return Element::kFloat32;
    if (code == dlpack::kFloat && bits == 16) return Element::kFloat16;
    if (code == dlpack::kBFloat && bits == 16) return Element::kBFloat16;
  }
  throw py::type_error("expected a float64, float32, bfloat16 or float16 tensor");
}

// The kernels for a tensor's dtype.
inline const Kernels& kernels(const Tensor& tensor) { return kernels_for(element_of(tensor)); }

// Whether ranks are 32-bit integers, and not 16-bit ones.
inline bool is_wide(const Tensor& ranks) { return ranks.dtype.bits == 32; }

// Functions of their own files.
void define_frame_level(py::module_& module);
void define_weighted_average(py::module_& module);
void define_packed(py::module_& module);
void define_pool_bce(py::module_& module);

}  // namespace milkernels
