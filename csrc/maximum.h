// The maximum over frames, alone or plus their mean: its backward pass, beside the forward one.
#pragma once

#include "maximum_forward.h"
#include "scatter.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// What up to a vector of maxima get of their bag values' gradients, from logits.
template <class E>
Vector<Arithmetic<E>> slopes_of(const MaximumProblem& problem, int64_t bag, int64_t first,
                                int64_t count) {
  using T = Arithmetic<E>;
  const int64_t cell = bag * problem.classes + first;
  if (problem.slopes != nullptr)
    return load_lanes(static_cast<const T*>(problem.slopes) + cell, count);
  T logits[kLanes<T>] = {};
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t frame = problem.index[cell + lane];
    if (frame >= 0) logits[lane] = load_one(at<E>(problem.x, bag, first + lane, frame));
  }
  const Sigmoid<T> at_peaks = sigmoid<T>(load(logits));
  return at_peaks.value * at_peaks.complement;
}

// How a bag's gradient becomes 0: in parts of about as many elements.
template <class E>
class Clearing {
 public:
  explicit Clearing(const MaximumProblem& problem)
      : problem_(problem),
        by_row_(problem.frames_contiguous),
        lines_(by_row_ ? problem.classes : problem.frames),
        length_(by_row_ ? problem.frames : problem.classes),
        together_(length_ > 0 && length_ < kElements ? kElements / length_ : 1),
        pieces_((length_ + kElements - 1) / kElements),
        without_gaps_((by_row_ ? problem.x_gradient.stride_class
                               : problem.x_gradient.stride_frame) == length_) {}

  // None of no elements, which have no address.
  int64_t parts() const { return (lines_ + together_ - 1) / together_ * pieces_; }

  void clear(int64_t bag, int64_t part) const {
    const int64_t start = part / pieces_ * together_;
    const int64_t end = start + together_ < lines_ ? start + together_ : lines_;
    const int64_t first = part % pieces_ * kElements;
    const int64_t count = length_ - first < kElements ? length_ - first : kElements;
    if (without_gaps_) return clear_line(bag, start, first, (end - start) * count);
    for (int64_t line = start; line < end; ++line) clear_line(bag, line, first, count);
  }

 private:
  void clear_line(int64_t bag, int64_t line, int64_t first, int64_t count) const {
    E* to = at_mutable<E>(problem_.x_gradient, bag, by_row_ ? line : first, by_row_ ? first : line);
    std::memset(to, 0, static_cast<size_t>(count) * sizeof(E));
  }

  static constexpr int64_t kElements = 32768;
  const MaximumProblem& problem_;
  bool by_row_;
  int64_t lines_;
  int64_t length_;
  int64_t together_;
  int64_t pieces_;
  bool without_gaps_;
};

// The maxima's gradients.
template <class E>
void scatter_maxima(const MaximumProblem& problem, int64_t bag) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  for (int64_t first = 0; first < problem.classes; first += kStep) {
    const int64_t count = problem.classes - first < kStep ? problem.classes - first : kStep;
    const int64_t cell = bag * problem.classes + first;
    const int64_t* frames = problem.index + cell;
    Vector<T> gradient = bag_gradients<E>(problem, cell, count);
    if (problem.from_logits) gradient *= slopes_of<E>(problem, bag, first, count);
    T values[kStep];
    store(values, gradient);
    for (int64_t lane = 0; lane < count; ++lane)
      if (frames[lane] >= 0)
        store_one(at_mutable<E>(problem.x_gradient, bag, first + lane, frames[lane]), values[lane]);
  }
}

// The gradient where the mean is added: its share for every frame, and the maximum's besides.
template <class E, bool kFromLogits>
struct MaxMeanGradient {
  using T = Arithmetic<E>;
  static constexpr bool kReadsFrames = kFromLogits;
  static constexpr bool kLongChains = false;

  struct Constants {
    Vector<T> share;

    template <class Choose>
    MILKERNELS_INLINE Constants each(const Choose& choose) const {
      return {choose(share)};
    }
  };

  static Constants constants(const MaximumProblem& problem, int64_t cell, int64_t count) {
    Vector<T> frames = broadcast(T(1));
    for (int64_t lane = 0; lane < count; ++lane)
      frames[lane] = static_cast<T>(problem.count[cell + lane]);
    return {bag_gradients<E>(problem, cell, count) / frames};
  }

  static MILKERNELS_INLINE Vector<T> gradient(const Constants& bag, Vector<T> raw) {
    if constexpr (!kFromLogits) return bag.share;
    const Sigmoid<T> at = sigmoid<T>(raw);
    return bag.share * (at.value * at.complement);
  }

  static void finish(const MaximumProblem& problem, int64_t cell, int64_t first, int64_t last) {
    const int64_t frame = problem.index[cell];
    if (frame < first || frame >= last) return;
    const int64_t bag = cell / problem.classes;
    const int64_t class_index = cell % problem.classes;
    Vector<T> gradient = bag_gradients<E>(problem, cell, 1) + constants(problem, cell, 1).share;
    if constexpr (kFromLogits) gradient *= slopes_of<E>(problem, bag, class_index, 1);
    store_one(at_mutable<E>(problem.x_gradient, bag, class_index, frame), gradient[0]);
  }
};

template <class E>
void maximum_backward(const MaximumProblem& problem) {
  if (problem.plus_mean) {
    problem.from_logits ? scatter<E, MaxMeanGradient<E, true>>(problem)
                        : scatter<E, MaxMeanGradient<E, false>>(problem);
    return;
  }
  const Clearing<E> clearing(problem);
  const int64_t parts = clearing.parts();
  if (problem.bags >= problem.threads) {
    // What a task has cleared is still near when it writes the maxima's gradients.
    parallel_for(problem.bags, elements_of(problem), problem.threads, [&](int64_t bag) {
      for (int64_t part = 0; part < parts; ++part) clearing.clear(bag, part);
      scatter_maxima<E>(problem, bag);
    });
    return;
  }
  parallel_for(problem.bags * parts, elements_of(problem), problem.threads,
               [&](int64_t task) { clearing.clear(task / parts, task % parts); });
  for (int64_t bag = 0; bag < problem.bags; ++bag) scatter_maxima<E>(problem, bag);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
