// Weighted averages, forward: a family for gather.h.
#pragma once

#include "gather.h"
#include "weighted_average.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Weights are relative to 2^peak; a peak is a whole number, so that changing it rounds nothing.
// The products are of weight and x; low and high bound x. The leader is the frame that raised the
// peak last: the bag value, if the others' weights vanish beside its own.
template <class E, class F>
struct WeightedAverage {
  using T = Arithmetic<E>;
  using Coefficients = FormulaCoefficients<T>;
  // Direct weights need neither a peak nor a leader.
  enum Row : int { kTotalRow, kProductsRow, kLowRow, kHighRow, kPeakRow, kLeaderRow };
  static constexpr int kRows = F::kDirect ? kPeakRow : kMomentRows;
  static constexpr bool kScores = F::kScores;
  static constexpr bool kFewInstructions = F::kDirect;
  // Scores beside the frames are too many for the registers.
  static constexpr bool kLongChains = F::kPower || (F::kDecays && !F::kScores);
  static constexpr bool kDecays = F::kDecays;
  static constexpr bool kKeeps = F::kKeeps;
  static constexpr bool kChained = false;
  static constexpr bool kMergesByClass = false;
  using Sums = Rows<T, kRows>;

  static MILKERNELS_INLINE Coefficients coefficients(const AverageProblem& problem,
                                                     int64_t class_index, int64_t count) {
    return load_coefficients<T>(problem, class_index, count);
  }
  static MILKERNELS_INLINE Vector<T> decay(Vector<T> raw) { return F::template decay<T>(raw); }

  // The sums over the frames seen so far.
  struct Gatherer {
    Vector<T> peak = broadcast(F::kDirect ? T(0) : T(kLowest));
    LongSum<T> total;
    LongSum<T> products;
    Vector<T> low = broadcast(T(__builtin_inf()));
    Vector<T> high = broadcast(T(-__builtin_inf()));
    Vector<T> leader{};
    bool large = false;  // a lane's peak

    template <int kCount, bool kAll>
    MILKERNELS_INLINE void gather(const Vector<T>* raw, const Vector<T>* decay,
                                  const Vector<T>* score, const Integer<T>* real,
                                  const Coefficients& coefficients) {
      const Vector<T> zero{};
      Frame<T> frames[kCount];
      Vector<T> top = peak;
      MILKERNELS_UNROLL
      for (int k = 0; k < kCount; ++k) {
        frames[k] = F::template read<T>(raw[k], decay[k], score[k], coefficients.activation);
        if constexpr (!F::kDirect) {
          Vector<T> log2_weight = F::template log2_weight<T>(frames[k], coefficients, zero);
          if constexpr (!kAll) log2_weight = real[k] ? log2_weight : peak;
          top = maximum(top, log2_weight);
        }
      }
      if constexpr (!F::kDirect) {
        const Integer<T> higher = top > peak;
        if (any(higher)) {
          top = finite_peak<T>(top);
          MILKERNELS_UNROLL
          for (int k = 0; k < kCount; ++k) {
            auto leads =
                higher & (F::template log2_weight<T>(frames[k], coefficients, zero) >= top);
            if constexpr (!kAll) leads &= real[k];
            leader = leads ? frames[k].x : leader;
          }
          raise_peak(higher ? ceiling(top) + T(kHeadroom<T>) : peak);
          large = any(are_large<T>(peak));
        }
      }
      Vector<T> weights[kCount];
      const auto weigh = [&](const auto& weight_of) MILKERNELS_INLINE_LAMBDA {
        MILKERNELS_UNROLL
        for (int k = 0; k < kCount; ++k) {
          const Vector<T> weight = weight_of(frames[k]);
          weights[k] = kAll ? weight : real[k] ? weight : zero;
        }
      };
      const auto usual = [&](const Frame<T>& frame) MILKERNELS_INLINE_LAMBDA {
        return F::template weight<T>(frame, coefficients, -peak);
      };
      if constexpr (F::kDirect) {
        weigh(usual);
      } else if (MILKERNELS_UNLIKELY(large)) {
        weigh([&](const Frame<T>& frame) MILKERNELS_INLINE_LAMBDA {
          return F::template weight_below_large<T>(frame, coefficients, peak);
        });
      } else {
        weigh(usual);
      }
      Vector<T> values[kCount];
      Vector<T> least[kCount];
      Vector<T> most[kCount];
      MILKERNELS_UNROLL
      for (int k = 0; k < kCount; ++k) {
        const Vector<T> x = frames[k].x;
        values[k] = kAll ? x : real[k] ? x : zero;
        least[k] = kAll ? x : real[k] ? x : low;
        most[k] = kAll ? x : real[k] ? x : high;
      }
      const Vector<T> group_total = together<kCount>(weights, [](auto a, auto b) { return a + b; });
      if constexpr (F::kCounts)
        total.sum += group_total;  // a whole number, of one segment: nothing is lost
      else
        total.add(group_total);
      products.add(sum_of_products<kCount>(weights, values));
      low = minimum(low, together<kCount>(least, [](auto a, auto b) { return minimum(a, b); }));
      high = maximum(high, together<kCount>(most, [](auto a, auto b) { return maximum(a, b); }));
    }

    MILKERNELS_INLINE void raise_peak(Vector<T> to) {
      const Vector<T> scale = exp2(peak - to);
      peak = to;
      total.scale(scale);
      products.scale(scale);
    }

    MILKERNELS_INLINE Sums rows() const {
      if constexpr (F::kDirect)
        return {{total.value(), products.value(), low, high}};
      else
        return {{total.value(), products.value(), low, high, peak, leader}};
    }
  };

  static MILKERNELS_INLINE Sums merge(const Sums& a, const Sums& b, const Coefficients&) {
    const Vector<T> low = minimum(a.row[kLowRow], b.row[kLowRow]);
    const Vector<T> high = maximum(a.row[kHighRow], b.row[kHighRow]);
    if constexpr (F::kDirect) {
      return {{a.row[kTotalRow] + b.row[kTotalRow], a.row[kProductsRow] + b.row[kProductsRow], low,
               high}};
    } else {
      const Vector<T> peak = maximum(a.row[kPeakRow], b.row[kPeakRow]);
      const Vector<T> of_a = exp2(a.row[kPeakRow] - peak);
      const Vector<T> of_b = exp2(b.row[kPeakRow] - peak);
      return {{a.row[kTotalRow] * of_a + b.row[kTotalRow] * of_b,
               a.row[kProductsRow] * of_a + b.row[kProductsRow] * of_b, low, high, peak,
               a.row[kPeakRow] < b.row[kPeakRow] ? b.row[kLeaderRow] : a.row[kLeaderRow]}};
    }
  }

  static MILKERNELS_INLINE void write(const AverageProblem& problem, int64_t cell, int64_t count,
                                      const Sums& sums, const Coefficients&) {
    const Vector<T> zero{};
    const auto nothing = sums.row[kTotalRow] == zero;
    const Vector<T> total = nothing ? broadcast(T(1)) : sums.row[kTotalRow];
    Vector<T> y = sums.row[kProductsRow] / total;
    // What the product and the quotient round off a frame that has all the weight is put back.
    if constexpr (!F::kDirect) {
      const Vector<T> leader = sums.row[kLeaderRow];
      y = leader * total == sums.row[kProductsRow] ? leader : y;
    }
    y = y < sums.row[kLowRow] ? sums.row[kLowRow] : y;
    y = y > sums.row[kHighRow] ? sums.row[kHighRow] : y;
    y = nothing ? zero : y;
    // Dividing by infinity takes every frame's gradient to 0.
    const Vector<T> infinity = broadcast(T(__builtin_inf()));
    Vector<T> peak = zero;
    if constexpr (!F::kDirect) peak = nothing ? zero : sums.row[kPeakRow];
    store_bags<E>(problem, cell, y, count);
    store_lanes(statistics_row<T>(problem, kPeak) + cell, peak, count);
    store_lanes(statistics_row<T>(problem, kTotal) + cell, nothing ? infinity : total, count);
    store_lanes(statistics_row<T>(problem, kAverage) + cell, y, count);
  }
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
