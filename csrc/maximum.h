// The maximum over frames, alone or plus their mean, forward and backward, in the two layouts of
// frames.h.
#pragma once

#include "formula.h"
#include "scatter.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// The largest value of each lane so far and its frame, the first of equals; NaN is larger than any
// number. A frame of -1 marks the maximum of nothing.
template <class T>
struct Largest {
  Vector<T> value{};
  Integer<T> frame = Integer<T>{} - 1;

  inline void take(Vector<T> other, Integer<T> other_frame, Integer<T> real) {
    const Integer<T> larger = (other > value) | ((other != other) & (value == value));
    const Integer<T> taken = real & ((frame < 0) | larger);
    value = taken ? other : value;
    frame = taken ? other_frame : frame;
  }
};

// The sum of each lane's frames, how many they are, and the smallest.
template <class T>
struct MeanSums {
  LongSum<T> sum;
  Integer<T> count{};
  Vector<T> low = broadcast(T(__builtin_inf()));

  inline void take(const Problem& problem, Vector<T> raw, Integer<T> real) {
    const Vector<T> x = problem.from_logits ? sigmoid<T>(raw).value : raw;
    sum.add(real ? x : Vector<T>{});
    count -= real;
    low = real ? minimum(low, x) : low;
  }
};

// The same of a whole bag.
struct MeanTotal {
  double sum = 0;
  int64_t count = 0;
  double low = __builtin_inf();

  template <class T>
  inline void add(const MeanSums<T>& sums, int64_t lane) {
    sum += static_cast<double>(sums.sum.sum[lane]) + static_cast<double>(sums.sum.lost[lane]);
    count += sums.count[lane];
    const double smallest = static_cast<double>(sums.low[lane]);
    low = smallest < low ? smallest : low;
  }

  // Held between the smallest and the largest frame.
  inline double mean(double high) const {
    double value = sum / static_cast<double>(count);
    value = value < low ? low : value;
    return value > high ? high : value;
  }
};

template <class E>
inline void write_largest(const MaximumProblem& problem, int64_t cell, Arithmetic<E> value,
                          int64_t frame, const MeanTotal& total) {
  using T = Arithmetic<E>;
  Vector<T> y = broadcast(value);
  if (problem.from_logits) y = sigmoid<T>(y).value;
  if (problem.plus_mean) {
    y += static_cast<T>(total.mean(static_cast<double>(y[0])));
    problem.count[cell] = total.count;
  }
  if (frame < 0) y = Vector<T>{};
  store_bags<E>(problem, cell, y, 1);
  problem.index[cell] = frame;
}

// Whether (value, frame) comes before (best, best_frame): larger, or equal and earlier.
template <class T>
inline bool comes_first(T value, int64_t frame, T best, int64_t best_frame) {
  if (frame < 0) return false;
  if (best_frame < 0) return true;
  const bool value_nan = value != value;
  const bool best_nan = best != best;
  if (value_nan != best_nan) return value_nan;
  if (value == best || value_nan) return frame < best_frame;
  return value > best;
}

template <class E, bool kPlusMean>
void largest_of_row(const MaximumProblem& problem, int64_t bag, int64_t class_index) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const E* x = at<E>(problem.x, bag, class_index, 0);
  const uint8_t* mask = mask_row(problem, bag);
  T best = 0;
  int64_t best_frame = -1;
  MeanTotal total;
  // Lanes hold frames relative to a stretch that 32 bits can count.
  for (int64_t start = 0; start < problem.frames; start += kSegmentFrames) {
    const int64_t rest = problem.frames - start;
    const int64_t end = rest < kSegmentFrames ? rest : kSegmentFrames;
    Largest<T> largest;
    MeanSums<T> sums;
    for (int64_t frame = 0; frame < end; frame += kStep) {
      const int64_t count = end - frame < kStep ? end - frame : kStep;
      const Integer<T> real = real_lanes<T>(problem, mask, start + frame, count);
      const Vector<T> raw = load_lanes(x + start + frame, count);
      largest.take(raw, lane_numbers<T>() + static_cast<typename Simd<T>::Lane>(frame), real);
      if constexpr (kPlusMean) sums.take(problem, raw, real);
    }
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      if constexpr (kPlusMean) total.add(sums, lane);
      const int64_t frame = largest.frame[lane] < 0 ? -1 : start + largest.frame[lane];
      if (!comes_first<T>(largest.value[lane], frame, best, best_frame)) continue;
      best = largest.value[lane];
      best_frame = frame;
    }
  }
  write_largest<E>(problem, bag * problem.classes + class_index, best, best_frame, total);
}

template <class E, bool kPlusMean>
void largest_of_classes(const MaximumProblem& problem, int64_t bag, int64_t class_start,
                        int64_t class_end) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  T best[kClassVectors * kStep];
  int64_t best_frame[kClassVectors * kStep];
  MeanTotal total[kClassVectors * kStep];
  for (int64_t lane = 0; lane < kClassVectors * kStep; ++lane) {
    best[lane] = 0;
    best_frame[lane] = -1;
  }
  for (int64_t start = 0; start < problem.frames; start += kSegmentFrames) {
    const int64_t rest = problem.frames - start;
    const int64_t end = rest < kSegmentFrames ? rest : kSegmentFrames;
    Largest<T> largest[kClassVectors];
    MeanSums<T> sums[kPlusMean ? kClassVectors : 1];
    for (int64_t frame = 0; frame < end; ++frame) {
      if (mask != nullptr && !mask[(start + frame) * problem.mask_stride_frame]) continue;
      const E* x = at<E>(problem.x, bag, 0, start + frame);
      const Integer<T> number = Integer<T>{} + static_cast<typename Simd<T>::Lane>(frame);
      for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
        const int64_t count = class_end - index < kStep ? class_end - index : kStep;
        const Integer<T> real = Integer<T>{} - 1;
        const Vector<T> raw = load_lanes(x + index, count);
        largest[block].take(raw, number, real);
        if constexpr (kPlusMean) sums[block].take(problem, raw, real);
      }
    }
    for (int64_t index = class_start; index < class_end; ++index) {
      const int64_t slot = index - class_start;
      const Largest<T>& block = largest[slot / kStep];
      const int64_t lane = slot % kStep;
      if constexpr (kPlusMean) total[slot].add(sums[slot / kStep], lane);
      const int64_t frame = block.frame[lane] < 0 ? -1 : start + block.frame[lane];
      if (!comes_first<T>(block.value[lane], frame, best[slot], best_frame[slot])) continue;
      best[slot] = block.value[lane];
      best_frame[slot] = frame;
    }
  }
  for (int64_t index = class_start; index < class_end; ++index) {
    const int64_t slot = index - class_start;
    write_largest<E>(problem, bag * problem.classes + index, best[slot], best_frame[slot],
                     total[slot]);
  }
}

template <class E, bool kPlusMean>
void find_largest(const MaximumProblem& problem) {
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  if (problem.frames_contiguous) {
    parallel_for(problem.bags * problem.classes, elements, problem.threads, [&](int64_t row) {
      largest_of_row<E, kPlusMean>(problem, row / problem.classes, row % problem.classes);
    });
  } else {
    constexpr int64_t kBlock = kClassVectors * kLanes<Arithmetic<E>>;
    const int64_t blocks = (problem.classes + kBlock - 1) / kBlock;
    parallel_for(problem.bags * blocks, elements, problem.threads, [&](int64_t task) {
      const int64_t start = task % blocks * kBlock;
      const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
      largest_of_classes<E, kPlusMean>(problem, task / blocks, start, end);
    });
  }
}

template <class E>
void maximum_forward(const MaximumProblem& problem) {
  problem.plus_mean ? find_largest<E, true>(problem) : find_largest<E, false>(problem);
}

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
