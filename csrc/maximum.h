// The maximum over frames, alone or plus their mean: its backward pass, beside the forward one.
#pragma once

#include "maximum_forward.h"
#include "scatter.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// What the maximum's frame gets of a bag value's gradient.
template <class E>
inline Vector<Arithmetic<E>> slope_at(const MaximumProblem& problem, int64_t bag,
                                      int64_t class_index, int64_t frame) {
  using T = Arithmetic<E>;
  if (!problem.from_logits) return broadcast(T(1));
  const Sigmoid<T> peak = sigmoid<T>(load_first(at<E>(problem.x, bag, class_index, frame), 1));
  return peak.value * peak.complement;
}

// Every frame of a bag is written as 0, then the maxima's: x is read there alone.
template <class E>
void scatter_maxima(const MaximumProblem& problem, int64_t bag) {
  using T = Arithmetic<E>;
  const bool by_row = problem.frames_contiguous;
  const int64_t lines = by_row ? problem.classes : problem.frames;
  const int64_t length = by_row ? problem.frames : problem.classes;
  // Of no elements there is no address.
  if (length == 0) return;
  for (int64_t line = 0; line < lines; ++line) {
    E* to = at_mutable<E>(problem.x_gradient, bag, by_row ? line : 0, by_row ? 0 : line);
    std::memset(to, 0, static_cast<size_t>(length) * sizeof(E));
  }
  for (int64_t index = 0; index < problem.classes; ++index) {
    const int64_t cell = bag * problem.classes + index;
    const int64_t frame = problem.index[cell];
    if (frame < 0) continue;
    Vector<T> gradient = bag_gradients<E>(problem, cell, 1);
    gradient *= slope_at<E>(problem, bag, index, frame);
    store_first(at_mutable<E>(problem.x_gradient, bag, index, frame), gradient, 1);
  }
}

// The gradient where the mean is added: its share for every frame, and the maximum's besides.
template <class E, bool kFromLogits>
struct MaxMeanGradient {
  using T = Arithmetic<E>;
  using Constants = Vector<T>;
  static constexpr bool kReadsFrames = kFromLogits;

  static Vector<T> constants(const MaximumProblem& problem, int64_t cell, int64_t count) {
    Vector<T> frames = broadcast(T(1));
    for (int64_t lane = 0; lane < count; ++lane)
      frames[lane] = static_cast<T>(problem.count[cell + lane]);
    return bag_gradients<E>(problem, cell, count) / frames;
  }

  static Vector<T> spread(Vector<T> shares, int64_t lane) { return broadcast(shares[lane]); }

  static Vector<T> gradient(Vector<T> share, Vector<T> raw) {
    if constexpr (!kFromLogits) return share;
    const Sigmoid<T> at = sigmoid<T>(raw);
    return share * (at.value * at.complement);
  }

  static void finish(const MaximumProblem& problem, int64_t cell, int64_t first, int64_t last) {
    const int64_t frame = problem.index[cell];
    if (frame < first || frame >= last) return;
    const int64_t bag = cell / problem.classes;
    const int64_t class_index = cell % problem.classes;
    const Vector<T> whole = bag_gradients<E>(problem, cell, 1);
    const Vector<T> gradient = whole + constants(problem, cell, 1);
    store_first(at_mutable<E>(problem.x_gradient, bag, class_index, frame),
                gradient * slope_at<E>(problem, bag, class_index, frame), 1);
  }
};

template <class E>
void maximum_backward(const MaximumProblem& problem) {
  if (problem.plus_mean) {
    problem.from_logits ? scatter<E, MaxMeanGradient<E, true>>(problem)
                        : scatter<E, MaxMeanGradient<E, false>>(problem);
    return;
  }
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(problem.bags, elements, problem.threads,
               [&](int64_t bag) { scatter_maxima<E>(problem, bag); });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
