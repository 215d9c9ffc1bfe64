// Weighted sums over a bag, lane by lane: gathered frame by frame, then merged part by part.
#pragma once

#include "formula.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Stands for -inf as the peak of nothing: differences of it stay numbers.
constexpr float kLowest = -3.0e38f;

// Sums of one part of a bag in each lane. Weights are relative to 2^peak; a peak is a whole number,
// so that changing it rounds nothing. `first` sums weight · x; low and high bound x.
template <class T>
struct Moments {
  Vector<T> rows[kMomentRows];
  Vector<T>& peak() { return rows[0]; }
  Vector<T>& total() { return rows[1]; }
  Vector<T>& first() { return rows[2]; }
  Vector<T>& low() { return rows[3]; }
  Vector<T>& high() { return rows[4]; }
};

// Both parts together, lane by lane.
template <class T>
inline Moments<T> merge(Moments<T> a, Moments<T> b) {
  Moments<T> joint;
  joint.peak() = maximum(a.peak(), b.peak());
  const Vector<T> scale = exp2(a.peak() - joint.peak());
  const Vector<T> scale_b = exp2(b.peak() - joint.peak());
  joint.total() = a.total() * scale + b.total() * scale_b;
  joint.first() = a.first() * scale + b.first() * scale_b;
  joint.low() = minimum(a.low(), b.low());
  joint.high() = maximum(a.high(), b.high());
  return joint;
}

// All lanes are parts of one bag: the bag's sums, in every lane.
template <class T>
inline Moments<T> merge_lanes(Moments<T> lanes) {
  Moments<T> whole;
  whole.peak() = broadcast(largest_lane<T>(lanes.peak()));
  const Vector<T> scale = exp2(lanes.peak() - whole.peak());
  whole.total() = broadcast(sum_of_lanes<T>(lanes.total() * scale));
  whole.first() = broadcast(sum_of_lanes<T>(lanes.first() * scale));
  whole.low() = broadcast(-largest_lane<T>(-lanes.low()));
  whole.high() = broadcast(largest_lane<T>(lanes.high()));
  return whole;
}

// A sum of many terms, with what each addition loses kept beside.
template <class T>
struct LongSum {
  Vector<T> sum{};
  Vector<T> lost{};

  inline void add(Vector<T> term) {
    const Vector<T> next = sum + term;
    const Vector<T> added = next - sum;
    lost += (sum - (next - added)) + (term - added);
    sum = next;
  }
  inline void scale(Vector<T> by) {
    sum *= by;
    lost *= by;
  }
  inline Vector<T> value() const { return sum + lost; }
};

// The sums over the frames seen so far.
template <class T, class F>
struct Gatherer {
  Vector<T> peak = broadcast(F::kDirect ? T(0) : T(kLowest));
  LongSum<T> total;
  LongSum<T> first;
  Vector<T> low = broadcast(T(__builtin_inf()));
  Vector<T> high = broadcast(T(-__builtin_inf()));

  // Takes kCount frames in each lane; with kAll, every one of them is real.
  template <int kCount, bool kAll>
  inline void gather(const Vector<T>* raw, const Vector<T>* score, const Integer<T>* real,
                     const Coefficients<T>& coefficients, Activation activation) {
    const Vector<T> zero{};
    Frame<T> frames[kCount];
    Vector<T> top = peak;
    for (int k = 0; k < kCount; ++k) {
      frames[k] = F::template read<T>(raw[k], score[k], activation);
      if constexpr (!F::kDirect) {
        Vector<T> log2_weight = F::template log2_weight<T>(frames[k], coefficients, zero);
        if constexpr (!kAll) log2_weight = real[k] ? log2_weight : peak;
        top = maximum(top, log2_weight);
      }
    }
    if constexpr (!F::kDirect) {
      if (any(top > peak)) raise_peak(ceiling(top));
    }
    Vector<T> group_total{};
    Vector<T> group_first{};
    for (int k = 0; k < kCount; ++k) {
      Vector<T> weight = F::template weight<T>(frames[k], coefficients, -peak);
      Vector<T> x = frames[k].x;
      if constexpr (!kAll) {
        weight = real[k] ? weight : zero;
        x = real[k] ? x : zero;
        low = real[k] ? minimum(low, x) : low;
        high = real[k] ? maximum(high, x) : high;
      } else {
        low = minimum(low, x);
        high = maximum(high, x);
      }
      group_total += weight;
      group_first = multiply_add(weight, x, group_first);
    }
    total.add(group_total);
    first.add(group_first);
  }

  inline void raise_peak(Vector<T> to) {
    const Vector<T> scale = exp2(peak - to);
    peak = to;
    total.scale(scale);
    first.scale(scale);
  }

  inline Moments<T> moments() const { return {{peak, total.value(), first.value(), low, high}}; }
};

// Bag value and statistics out of the sums.
template <class T>
struct Finished {
  Vector<T> y;
  Vector<T> peak;
  Vector<T> total;
};

template <class T>
inline Finished<T> finish(Moments<T> moments) {
  const Vector<T> zero{};
  const auto nothing = moments.total() == zero;
  const Vector<T> total = nothing ? broadcast(T(1)) : moments.total();
  Vector<T> y = moments.first() / total;
  y = y < moments.low() ? moments.low() : y;
  y = y > moments.high() ? moments.high() : y;
  // Dividing by infinity takes every frame's gradient to 0.
  const Vector<T> infinity = broadcast(T(__builtin_inf()));
  return {nothing ? zero : y, nothing ? zero : moments.peak(), nothing ? infinity : total};
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
