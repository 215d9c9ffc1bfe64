// Weights and moments that grow block by block: what the walks of statistics pooling, forward,
// share.
#pragma once

#include <vector>

#include "statistics.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Peak and total of the weights so far, in each lane or the same in all.
template <class T>
struct Weights {
  Vector<T> peak = broadcast(T(kLowest));
  LongSum<T> total;

  // The peak in each lane with the scores' own, a whole number in base 2.
  inline Vector<T> raised(const Vector<T>* score, const Integer<T>* real, int64_t count) const {
    Vector<T> top = peak;
    for (int64_t k = 0; k < count; ++k) {
      const Vector<T> next = maximum(top, score[k] * T(kLog2E));
      top = real == nullptr ? next : (real[k] ? next : top);
    }
    return ceiling(finite_peak<T>(top));
  }

  // Turns scores into weights that sum to 1, in each lane or with kJoined in all, and takes them
  // in. Gives their share of all weights. `real` is null where every score counts.
  template <bool kJoined>
  inline Shares<T> take(Vector<T>* score, const Integer<T>* real, int64_t count,
                        Vector<T> raised_peak) {
    const Vector<T> zero{};
    total.scale(exp2(peak - raised_peak));
    peak = raised_peak;
    Vector<T> sum{};
    for (int64_t k = 0; k < count; ++k) {
      const Vector<T> weight = exponential<T>(score[k], peak);
      score[k] = real == nullptr ? weight : (real[k] ? weight : zero);
      sum += score[k];
    }
    if constexpr (kJoined) sum = broadcast(sum_of_lanes<T>(sum));
    const Vector<T> divisor = divisor_of<T>(sum);
    for (int64_t k = 0; k < count; ++k) score[k] /= divisor;
    const Shares<T> shares = shares_of<T>(total.value(), sum);
    total.add(sum);
    return shares;
  }
};

// Running moments in memory, `size` values of each.
template <class T>
class KeptMoments {
 public:
  explicit KeptMoments(int64_t size) : size_(size), values_(static_cast<size_t>(3 * size)) {}

  inline Moment<T> get(int64_t from, int64_t count) const {
    const T* mean = values_.data() + from;
    return {load_lanes(mean, count), load_lanes(mean + size_, count),
            load_lanes(mean + 2 * size_, count)};
  }
  inline void take(int64_t from, int64_t count, const Moment<T>& there, const Shares<T>& shares) {
    const Moment<T> joint = merge<T>(get(from, count), there, shares);
    T* mean = values_.data() + from;
    store_lanes(mean, joint.mean, count);
    store_lanes(mean + size_, joint.lost, count);
    store_lanes(mean + 2 * size_, joint.variance, count);
  }

 private:
  int64_t size_;
  std::vector<T> values_;
};

// The weighted mean and variance of vectors x(k), in each lane; weights sum to 1 but for rounding.
// What the mean lacks is the mean of what is left.
template <class T, class Weight, class Value>
MILKERNELS_INLINE Moment<T> moment_of(int64_t count, const Weight& weight, const Value& x) {
  Vector<T> mean{}, lost{}, variance{};
  for (int64_t k = 0; k < count; ++k) mean = multiply_add(weight(k), x(k), mean);
  for (int64_t k = 0; k < count; ++k) {
    const Vector<T> residual = x(k) - mean;
    const Vector<T> weighted = weight(k) * residual;
    lost += weighted;
    variance = multiply_add(weighted, residual, variance);
  }
  return {mean, lost, multiply_add(-lost, lost, variance)};
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
