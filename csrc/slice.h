// A part of a problem as a problem of its own: some bags, classes and frames of the same tensors,
// with the same strides. A driver that calls kernels task by task cuts its tasks with it.
#pragma once

#include "dispatch.h"

namespace milkernels {

struct Range {
  int64_t first = 0;
  int64_t count = 0;
};

struct Slice {
  Range bags;
  Range classes;
  Range frames;
};

// Sizes of an element of x and of the type that its arithmetic is in.
struct Bytes {
  int64_t element = 0;
  int64_t arithmetic = 0;
};

inline Bytes bytes_of(Element element) {
  switch (element) {
    case Element::kFloat64:
      return {8, 8};
    case Element::kFloat32:
      return {4, 4};
    default:
      return {2, 4};
  }
}

inline Slice whole(const Problem& problem) {
  return {{0, problem.bags}, {0, problem.classes}, {0, problem.frames}};
}

inline FrameTensor sliced(FrameTensor tensor, const Slice& slice, int64_t element_bytes) {
  if (tensor.data == nullptr) return tensor;
  const int64_t elements = slice.bags.first * tensor.stride_bag +
                           slice.classes.first * tensor.stride_class +
                           slice.frames.first * tensor.stride_frame;
  tensor.data = static_cast<char*>(tensor.data) + elements * element_bytes;
  return tensor;
}

// Values (classes,) from the slice's first class on.
inline const void* sliced(const void* values, const Slice& slice, const Bytes& bytes) {
  if (values == nullptr) return nullptr;
  return static_cast<const char*>(values) + slice.classes.first * bytes.arithmetic;
}

inline Problem sliced(Problem problem, const Slice& slice) {
  if (problem.whole_elements == 0) problem.whole_elements = elements_of(problem);
  problem.bags = slice.bags.count;
  problem.classes = slice.classes.count;
  problem.frames = slice.frames.count;
  problem.threads = 1;
  if (problem.mask != nullptr)
    problem.mask +=
        slice.bags.first * problem.mask_stride_bag + slice.frames.first * problem.mask_stride_frame;
  return problem;
}

// Each gives the slice's frame tensors, mask and coefficients, on one thread. What belongs to bags
// and classes (y, its gradient, statistics, scratch, learned parameters' gradients) depends on the
// slice's own sizes and is left null: the caller gives each slice its own.

inline AverageProblem sliced(const AverageProblem& problem, const Slice& slice,
                             const Bytes& bytes) {
  AverageProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.member = problem.member;
  part.activation = problem.activation;
  part.x = sliced(problem.x, slice, bytes.element);
  part.scores = sliced(problem.scores, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  part.scores_gradient = sliced(problem.scores_gradient, slice, bytes.element);
  part.power = sliced(problem.power, slice, bytes);
  part.alpha = sliced(problem.alpha, slice, bytes);
  return part;
}

inline MaximumProblem sliced(const MaximumProblem& problem, const Slice& slice,
                             const Bytes& bytes) {
  MaximumProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.plus_mean = problem.plus_mean;
  part.x = sliced(problem.x, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  return part;
}

inline NoisyOrProblem sliced(const NoisyOrProblem& problem, const Slice& slice,
                             const Bytes& bytes) {
  NoisyOrProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.x = sliced(problem.x, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  return part;
}

inline LogMeanExpProblem sliced(const LogMeanExpProblem& problem, const Slice& slice,
                                const Bytes& bytes) {
  LogMeanExpProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.learn = problem.learn;
  part.x = sliced(problem.x, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  part.sharpness = sliced(problem.sharpness, slice, bytes);
  return part;
}

inline ClassAttentionProblem sliced(const ClassAttentionProblem& problem, const Slice& slice,
                                    const Bytes& bytes) {
  ClassAttentionProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.activation = problem.activation;
  part.x = sliced(problem.x, slice, bytes.element);
  part.scores = sliced(problem.scores, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  part.scores_gradient = sliced(problem.scores_gradient, slice, bytes.element);
  return part;
}

inline RankProblem sliced(const RankProblem& problem, const Slice& slice, const Bytes& bytes) {
  RankProblem part;
  static_cast<Problem&>(part) = sliced(static_cast<const Problem&>(problem), slice);
  part.decay = problem.decay;
  part.x = sliced(problem.x, slice, bytes.element);
  part.x_gradient = sliced(problem.x_gradient, slice, bytes.element);
  part.ranks = sliced(problem.ranks, slice, problem.wide_ranks ? 4 : 2);
  part.wide_ranks = problem.wide_ranks;
  return part;
}

}  // namespace milkernels
