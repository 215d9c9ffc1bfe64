// Weighted averages, backward: the gradients of a group of vectors of frames.
#pragma once

#include "frames.h"
#include "parameter_sums.h"
#include "weighted_average.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// What the backward pass reads for each bag and class, in one vector's lanes.
template <class T>
struct BagConstants {
  Vector<T> scale;
  Vector<T> y;
  Vector<T> minus_peak;
  FormulaCoefficients<T> coefficients;
  Vector<T> log_y{};

  template <class Choose>
  MILKERNELS_INLINE BagConstants each(const Choose& choose) const {
    return {choose(scale), choose(y), choose(minus_peak), coefficients.each(choose), choose(log_y)};
  }
};

template <class F, bool kLearn>
constexpr bool kLearnsPower = kLearn && F::kPower;

template <class E, bool kLogY>
MILKERNELS_INLINE BagConstants<Arithmetic<E>> bag_constants(const AverageProblem& problem,
                                                            int64_t bag, int64_t class_index,
                                                            int64_t count) {
  using T = Arithmetic<E>;
  const int64_t cell = bag * problem.classes + class_index;
  const Vector<T> gradient = bag_gradients<E>(problem, cell, count);
  BagConstants<T> constants{gradient / load_lanes(statistics_row<T>(problem, kTotal) + cell, count),
                            load_lanes(statistics_row<T>(problem, kAverage) + cell, count),
                            -load_lanes(statistics_row<T>(problem, kPeak) + cell, count),
                            load_coefficients<T>(problem, class_index, count)};
  if constexpr (kLogY) {
    const Vector<T> floor = broadcast(T(kWeightFloor));
    const Logarithm<T> log = logarithm(constants.y < floor ? floor : constants.y);
    constants.log_y = log.whole * T(kLn2) + log.rest;
  }
  return constants;
}

// The gradient of one vector of frames; the scores' goes to scores_gradient.
template <class T, class F, bool kLearn, bool kLarge>
MILKERNELS_INLINE Vector<T> vector_gradient(const BagConstants<T>& bag, Vector<T> raw,
                                            Vector<T> decay, Vector<T> score, Integer<T> real,
                                            Vector<T>& scores_gradient, ParameterSums<T>& sums) {
  const Vector<T> zero{};
  const Activation activation = bag.coefficients.activation;
  const Frame<T> frame = F::template read<T>(raw, decay, score, activation);
  Vector<T> weight;
  if constexpr (kLarge)
    weight = F::template weight_below_large<T>(frame, bag.coefficients, -bag.minus_peak);
  else
    weight = F::template weight<T>(frame, bag.coefficients, bag.minus_peak);
  weight *= bag.scale;
  const Vector<T> residual = frame.x - bag.y;
  if constexpr (F::kScores) {
    const Vector<T> slope = F::template score_slope<T>(score, activation);
    scores_gradient = real ? weight * residual * slope : zero;
  }
  if constexpr (kLearn && F::kAlpha) sums.alpha += real ? weight * residual * residual : zero;
  if constexpr (kLearn && F::kPower) {
    const Vector<T> log_ratio = F::template log_x<T>(frame) - bag.log_y;
    sums.power += real ? weight * residual * log_ratio : zero;
  }
  const Vector<T> slope = F::template frame_gradient<T>(raw, frame, residual, bag.coefficients);
  return real ? weight * slope : zero;
}

// Where a task reads and writes frames, from one of them on.
template <class E>
struct Places {
  const E* x;
  const E* scores;
  E* x_gradient;
  E* scores_gradient;

  MILKERNELS_INLINE Places from(int64_t index) const {
    return {x + index, scores + index, x_gradient + index, scores_gradient + index};
  }
};

template <class E, bool kScores>
MILKERNELS_INLINE Places<E> places_of(const AverageProblem& problem, int64_t bag,
                                      int64_t class_index, int64_t frame) {
  const E* x = at<E>(problem.x, bag, class_index, frame);
  E* x_gradient = at_mutable<E>(problem.x_gradient, bag, class_index, frame);
  if constexpr (!kScores) return {x, x, x_gradient, x_gradient};
  return {x, at<E>(problem.scores, bag, class_index, frame), x_gradient,
          at_mutable<E>(problem.scores_gradient, bag, class_index, frame)};
}

// The gradients of kVectors vectors of frames, for the lanes that there are. All are read before
// one is written, so that the processor may work on all of them at once.
template <class E, class F, bool kLearn, bool kKept, int kVectors, bool kLarge = false, class Bags,
          class Lanes, class Sums>
MILKERNELS_INLINE void scatter_vectors(const Bags& bag_of, const Places<E>& at, bool far,
                                       const Lanes& lanes_of, const Sums& sums_of) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  PresentLanes<T> lanes[kVectors];
  Vector<T> raw[kVectors];
  Vector<T> decay[kVectors];
  Vector<T> score[kVectors];
  Vector<T> to_x[kVectors];
  Vector<T> to_scores[kVectors];
  // Beside scores this gains little outside the caches, and costs as much in them.
  if (F::kReadsValues && !F::kScores && far) fetch_ahead<kVectors>(at.x);
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    lanes[k] = lanes_of(k);
    raw[k] = F::kReadsValues ? load_lanes(at.x + k * kStep, lanes[k].count) : Vector<T>{};
    decay[k] = kKept ? load_lanes(at.x_gradient + k * kStep, lanes[k].count)
                     : F::template decay<T>(raw[k]);
    score[k] = F::kScores ? load_lanes(at.scores + k * kStep, lanes[k].count) : raw[k];
  }
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    if constexpr (F::kReadsValues)
      to_x[k] = vector_gradient<T, F, kLearn, kLarge>(bag_of(k), raw[k], decay[k], score[k],
                                                      lanes[k].real, to_scores[k], sums_of(k));
    else
      to_x[k] = lanes[k].real ? bag_of(k).scale : Vector<T>{};
  }
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    store_lanes(at.x_gradient + k * kStep, to_x[k], lanes[k].count);
    if constexpr (F::kScores)
      store_lanes(at.scores_gradient + k * kStep, to_scores[k], lanes[k].count);
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
