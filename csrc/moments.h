// Moments of a weighted bag, lane by lane: gathered frame by frame, then merged part by part.
#pragma once

#include "formula.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Stands for -inf as the peak of nothing: differences of it stay numbers.
constexpr float kLowest = -3.0e38f;

// Values of a Moments, in the order in which they lie in scratch memory.
constexpr int kMomentRows = 8;

// Of one part of a bag in each lane: weights are relative to `peak`, the largest log-weight; mean
// and variance are x's, mean_log is log x's, covariance theirs; low and high bound x.
template <class T>
struct Moments {
  Vector<T> rows[kMomentRows];
  Vector<T>& peak() { return rows[0]; }
  Vector<T>& total() { return rows[1]; }
  Vector<T>& mean() { return rows[2]; }
  Vector<T>& variance() { return rows[3]; }
  Vector<T>& mean_log() { return rows[4]; }
  Vector<T>& covariance() { return rows[5]; }
  Vector<T>& low() { return rows[6]; }
  Vector<T>& high() { return rows[7]; }
};

template <class T>
inline Vector<T> or_one(Vector<T> divisor) {
  return divisor == Vector<T>{} ? broadcast(T(1)) : divisor;
}

// Both parts together, lane by lane.
template <class T>
inline Moments<T> merge(Moments<T> a, Moments<T> b) {
  Moments<T> joint;
  joint.peak() = maximum(a.peak(), b.peak());
  const Vector<T> weight = a.total() * exponential(a.peak() - joint.peak());
  const Vector<T> weight_b = b.total() * exponential(b.peak() - joint.peak());
  joint.total() = weight + weight_b;
  const Vector<T> share = weight_b / or_one<T>(joint.total());
  const Vector<T> step = b.mean() - a.mean();
  const Vector<T> step_log = b.mean_log() - a.mean_log();
  const Vector<T> between = share * (T(1) - share);
  joint.mean() = a.mean() + share * step;
  joint.variance() =
      a.variance() + share * (b.variance() - a.variance()) + between * step * step;
  joint.mean_log() = a.mean_log() + share * step_log;
  joint.covariance() =
      a.covariance() + share * (b.covariance() - a.covariance()) + between * step * step_log;
  joint.low() = minimum(a.low(), b.low());
  joint.high() = maximum(a.high(), b.high());
  return joint;
}

// All lanes are parts of one bag: the bag's moments, in every lane.
template <class T, bool kLearn>
inline Moments<T> merge_lanes(Moments<T> lanes) {
  Moments<T> whole{};
  whole.peak() = broadcast(largest_lane<T>(lanes.peak()));
  const Vector<T> weight = lanes.total() * exponential(lanes.peak() - whole.peak());
  const T total = sum_of_lanes<T>(weight);
  const T inverse = T(1) / (total == T(0) ? T(1) : total);
  const T mean = sum_of_lanes<T>(weight * lanes.mean()) * inverse;
  whole.total() = broadcast(total);
  whole.mean() = broadcast(mean);
  if constexpr (kLearn) {
    const T mean_log = sum_of_lanes<T>(weight * lanes.mean_log()) * inverse;
    const Vector<T> step = lanes.mean() - mean;
    const Vector<T> step_log = lanes.mean_log() - mean_log;
    const Vector<T> variance = weight * (lanes.variance() + step * step);
    const Vector<T> covariance = weight * (lanes.covariance() + step * step_log);
    whole.mean_log() = broadcast(mean_log);
    whole.variance() = broadcast(sum_of_lanes<T>(variance) * inverse);
    whole.covariance() = broadcast(sum_of_lanes<T>(covariance) * inverse);
  }
  whole.low() = broadcast(-largest_lane<T>(-lanes.low()));
  whole.high() = broadcast(largest_lane<T>(lanes.high()));
  return whole;
}

// Sums over the frames seen so far, in each lane. The sums that a learned parameter needs are of
// differences from a pivot, so that they do not cancel.
template <class T, class F, bool kLearn>
struct Gatherer {
  static constexpr bool kVariance = kLearn && F::kAlpha;
  static constexpr bool kCovariance = kLearn && F::kPower;

  Vector<T> peak = broadcast(F::kDirect ? T(0) : T(kLowest));
  Vector<T> total{};
  Vector<T> first{};
  Vector<T> low = broadcast(T(__builtin_inf()));
  Vector<T> high = broadcast(T(-__builtin_inf()));
  Vector<T> pivot{};
  Vector<T> pivot_log{};
  Vector<T> second{};
  Vector<T> first_log{};
  Vector<T> cross{};

  // Takes kCount frames in each lane; with kAll, every one of them is real.
  template <int kCount, bool kAll>
  inline void gather(const Vector<T>* raw, const Vector<T>* score, const Integer<T>* real,
                     Vector<T> alpha, Vector<T> power, Activation activation) {
    Weighed<T> frames[kCount];
    Vector<T> top = peak;
    for (int k = 0; k < kCount; ++k) {
      frames[k] = F::template weigh<T>(raw[k], score[k], alpha, power, activation);
      if constexpr (!kAll) {
        const Vector<T> zero{};
        frames[k].x = real[k] ? frames[k].x : zero;
        frames[k].log_x = real[k] ? frames[k].log_x : zero;
        frames[k].factor = real[k] ? frames[k].factor : zero;
        frames[k].log_weight =
            real[k] ? frames[k].log_weight : broadcast(T(-__builtin_inf()));
      }
      if constexpr (!F::kDirect) top = maximum(top, frames[k].log_weight);
    }
    if constexpr (!F::kDirect) {
      if (any(top > peak)) rescale(top);
    }
    if constexpr (kLearn) {
      if (any(total == Vector<T>{})) choose_pivot<kCount, kAll>(frames, real);
    }
    for (int k = 0; k < kCount; ++k) {
      Vector<T> weight = frames[k].factor;
      if constexpr (!F::kDirect) {
        // Without this, a frame that is not real in a lane that has had none would be exp(0).
        weight = frames[k].log_weight - peak;
        weight = frames[k].factor * exponential(weight);
      }
      total += weight;
      const Vector<T> step = kLearn ? frames[k].x - pivot : frames[k].x;
      first += weight * step;
      if constexpr (kVariance) second += weight * step * step;
      if constexpr (kCovariance) {
        const Vector<T> step_log = frames[k].log_x - pivot_log;
        first_log += weight * step_log;
        cross += weight * step * step_log;
      }
      if constexpr (kAll) {
        low = minimum(low, frames[k].x);
        high = maximum(high, frames[k].x);
      } else {
        low = real[k] ? minimum(low, frames[k].x) : low;
        high = real[k] ? maximum(high, frames[k].x) : high;
      }
    }
  }

  inline void rescale(Vector<T> top) {
    const Vector<T> scale = exponential(peak - top);
    peak = top;
    total *= scale;
    first *= scale;
    second *= scale;
    first_log *= scale;
    cross *= scale;
  }

  // A lane without weight yet has all sums 0, so its pivot is free.
  template <int kCount, bool kAll>
  inline void choose_pivot(const Weighed<T>* frames, const Integer<T>* real) {
    const Integer<T> open = total == Vector<T>{};
    for (int k = kCount - 1; k >= 0; --k) {
      const Integer<T> take = kAll ? open : open & real[k];
      pivot = take ? frames[k].x : pivot;
      pivot_log = take ? frames[k].log_x : pivot_log;
    }
  }

  inline Moments<T> moments() const {
    const Vector<T> inverse = T(1) / or_one<T>(total);
    const Vector<T> step = first * inverse;
    const Vector<T> step_log = first_log * inverse;
    Moments<T> result;
    result.peak() = peak;
    result.total() = total;
    result.mean() = kLearn ? pivot + step : step;
    result.variance() = second * inverse - step * step;
    result.mean_log() = pivot_log + step_log;
    result.covariance() = cross * inverse - step * step_log;
    result.low() = low;
    result.high() = high;
    return result;
  }
};

// Bag value and statistics out of moments.
template <class T>
struct Finished {
  Vector<T> y;
  Vector<T> peak;
  Vector<T> inverse_total;
};

template <class T>
inline Finished<T> finish(Moments<T> moments) {
  const Vector<T> zero{};
  const auto nothing = moments.total() == zero;
  Vector<T> y = moments.mean();
  y = y < moments.low() ? moments.low() : y;
  y = y > moments.high() ? moments.high() : y;
  const Vector<T> inverse = T(1) / or_one<T>(moments.total());
  return {nothing ? zero : y, nothing ? zero : moments.peak(), nothing ? zero : inverse};
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
