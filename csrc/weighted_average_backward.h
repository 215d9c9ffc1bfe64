// Weighted averages, backward: elementwise in the frames, beside the sums that learned parameters
// need.
#pragma once

#include "frames.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// What the backward pass reads for each bag and class, in one vector's lanes.
template <class T>
struct BagConstants {
  Vector<T> scale;
  Vector<T> y;
  Vector<T> minus_peak;
  Coefficients<T> coefficients;
  Vector<T> log_y{};
};

template <class E, bool kLogY>
inline BagConstants<Arithmetic<E>> bag_constants(const AverageProblem& problem, int64_t bag,
                                                 int64_t class_index, int64_t count) {
  using T = Arithmetic<E>;
  const int64_t cell = bag * problem.classes + class_index;
  const Vector<T> gradient = bag_gradients<E>(problem, cell, count);
  BagConstants<T> constants{
      gradient / load_lanes(statistics_row<T>(problem, kTotal) + cell, count),
      load_lanes(statistics_row<T>(problem, kAverage) + cell, count),
      -load_lanes(statistics_row<T>(problem, kPeak) + cell, count),
      {load_coefficient<T>(problem.alpha, class_index, count),
       load_coefficient<T>(problem.power, class_index, count)}};
  if constexpr (kLogY) {
    const Vector<T> floor = broadcast(T(kWeightFloor));
    const Logarithm<T> log = logarithm(constants.y < floor ? floor : constants.y);
    constants.log_y = log.whole * T(kLn2) + log.rest;
  }
  return constants;
}

// The first lane's constants in every lane.
template <class T>
inline BagConstants<T> spread(const BagConstants<T>& one) {
  return {broadcast(one.scale[0]),
          broadcast(one.y[0]),
          broadcast(one.minus_peak[0]),
          {broadcast(one.coefficients.alpha[0]), broadcast(one.coefficients.power[0])},
          broadcast(one.log_y[0])};
}

// A task's share of the parameters' gradients: Σ g p r x and Σ g p r log x with r = x - y. As r sums
// to 0 under p, constants may be taken off x and log x, so that the sums do not cancel.
template <class T>
struct ParameterSums {
  Vector<T> alpha{};
  Vector<T> power{};
};

// The gradient of one vector of frames; the scores' goes to scores_gradient.
template <class T, class F, bool kLearn>
inline Vector<T> vector_gradient(const AverageProblem& problem, const BagConstants<T>& bag,
                                 Vector<T> raw, Vector<T> score, Integer<T> real,
                                 Vector<T>& scores_gradient, ParameterSums<T>& sums) {
  const Vector<T> zero{};
  const Frame<T> frame = F::template read<T>(raw, score, problem.activation);
  const Vector<T> weight =
      bag.scale * F::template weight<T>(frame, bag.coefficients, bag.minus_peak);
  const Vector<T> residual = frame.x - bag.y;
  if constexpr (F::kScores) {
    const Vector<T> slope = activation_derivative<T>(score, problem.activation);
    scores_gradient = real ? weight * residual * slope : zero;
  }
  if constexpr (kLearn && F::kAlpha) sums.alpha += real ? weight * residual * residual : zero;
  if constexpr (kLearn && F::kPower) {
    const Vector<T> log_ratio = F::template log_x<T>(frame) - bag.log_y;
    sums.power += real ? weight * residual * log_ratio : zero;
  }
  const Vector<T> slope =
      F::template frame_gradient<T>(raw, frame, residual, bag.coefficients);
  return real ? weight * slope : zero;
}

template <class T>
inline T* parameter_part(const AverageProblem& problem, int64_t parameter, int64_t part) {
  const int64_t cells = problem.bags * problem.classes;
  return static_cast<T*>(problem.scratch) + (parameter * parts_of(problem) + part) * cells;
}

template <class E, class F, bool kLearn>
void scatter_row(const AverageProblem& problem, int64_t bag, int64_t class_index, int64_t part,
                 int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const BagConstants<T> constants = spread(bag_constants<E, kLearn && F::kPower>(problem, bag, class_index, 1));
  const E* x = at<E>(problem.x, bag, class_index, 0);
  E* x_gradient = at_mutable<E>(problem.x_gradient, bag, class_index, 0);
  const E* scores = F::kScores ? at<E>(problem.scores, bag, class_index, 0) : x;
  E* scores_gradient =
      F::kScores ? at_mutable<E>(problem.scores_gradient, bag, class_index, 0) : x_gradient;
  const uint8_t* mask = mask_row(problem, bag);
  ParameterSums<T> sums;
  for (int64_t frame = first; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    const Integer<T> real = real_lanes<T>(problem, mask, frame, count);
    Vector<T> to_scores{};
    Vector<T> to_x = real ? constants.scale : Vector<T>{};
    if constexpr (F::kReadsValues) {
      const Vector<T> raw = load_lanes(x + frame, count);
      const Vector<T> score = F::kScores ? load_lanes(scores + frame, count) : raw;
      to_x = vector_gradient<T, F, kLearn>(problem, constants, raw, score, real, to_scores, sums);
    }
    store_lanes(x_gradient + frame, to_x, count);
    if constexpr (F::kScores) store_lanes(scores_gradient + frame, to_scores, count);
  }
  if constexpr (kLearn) {
    const int64_t cell = bag * problem.classes + class_index;
    parameter_part<T>(problem, 0, part)[cell] = sum_of_lanes<T>(sums.alpha);
    parameter_part<T>(problem, 1, part)[cell] = sum_of_lanes<T>(sums.power);
  }
}

template <class E, class F, bool kLearn>
void scatter_classes(const AverageProblem& problem, int64_t bag, int64_t part, int64_t first,
                     int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kBlock = kClassVectors * kStep;
  const uint8_t* mask = mask_row(problem, bag);
  for (int64_t start = 0; start < problem.classes; start += kBlock) {
    const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
    BagConstants<T> constants[kClassVectors];
    ParameterSums<T> sums[kClassVectors];
    for (int64_t index = start, block = 0; index < end; index += kStep, ++block) {
      const int64_t count = end - index < kStep ? end - index : kStep;
      constants[block] = bag_constants<E, kLearn && F::kPower>(problem, bag, index, count);
    }
    for (int64_t frame = first; frame < last; ++frame) {
      const bool is_real = mask == nullptr || mask[frame * problem.mask_stride_frame];
      const Integer<T> real = Integer<T>{} - (is_real ? 1 : 0);
      const E* x = at<E>(problem.x, bag, 0, frame);
      E* x_gradient = at_mutable<E>(problem.x_gradient, bag, 0, frame);
      const E* scores = F::kScores ? at<E>(problem.scores, bag, 0, frame) : x;
      E* scores_gradient =
          F::kScores ? at_mutable<E>(problem.scores_gradient, bag, 0, frame) : x_gradient;
      for (int64_t index = start, block = 0; index < end; index += kStep, ++block) {
        const int64_t count = end - index < kStep ? end - index : kStep;
        Vector<T> to_scores{};
        Vector<T> to_x = real ? constants[block].scale : Vector<T>{};
        if constexpr (F::kReadsValues) {
          const Vector<T> raw = load_lanes(x + index, count);
          const Vector<T> score = F::kScores ? load_lanes(scores + index, count) : raw;
          to_x = vector_gradient<T, F, kLearn>(problem, constants[block], raw, score, real,
                                               to_scores, sums[block]);
        }
        store_lanes(x_gradient + index, to_x, count);
        if constexpr (F::kScores) store_lanes(scores_gradient + index, to_scores, count);
      }
    }
    if constexpr (kLearn) {
      for (int64_t index = start, block = 0; index < end; index += kStep, ++block) {
        const int64_t count = end - index < kStep ? end - index : kStep;
        const int64_t cell = bag * problem.classes + index;
        store_lanes(parameter_part<T>(problem, 0, part) + cell, sums[block].alpha, count);
        store_lanes(parameter_part<T>(problem, 1, part) + cell, sums[block].power, count);
      }
    }
  }
}

// A learned parameter's gradient: the parts' shares over all bags, in order.
template <class T>
void sum_parts(const AverageProblem& problem, int64_t parameter, void* result) {
  constexpr int64_t kStep = kLanes<T>;
  const int64_t parts = parts_of(problem);
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    LongSum<T> sum;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t bag = 0; bag < problem.bags; ++bag) {
        const int64_t cell = bag * problem.classes + index;
        sum.add(load_lanes(parameter_part<T>(problem, parameter, part) + cell, count));
      }
    }
    store_lanes(static_cast<T*>(result) + index, sum.value(), count);
  }
}

template <class E, class F, bool kLearn>
void scatter_all(const AverageProblem& problem) {
  using T = Arithmetic<E>;
  const int64_t frames = frames_of_task(problem);
  const int64_t parts = parts_of(problem);
  const int64_t rows = problem.frames_contiguous ? problem.bags * problem.classes : problem.bags;
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(rows * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t row = task / parts;
    const int64_t part = task % parts;
    const int64_t first = part * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    if (problem.frames_contiguous)
      scatter_row<E, F, kLearn>(problem, row / problem.classes, row % problem.classes, part, first,
                                last);
    else
      scatter_classes<E, F, kLearn>(problem, row, part, first, last);
  });
  if (problem.alpha_gradient != nullptr) sum_parts<T>(problem, 0, problem.alpha_gradient);
  if (problem.power_gradient != nullptr) sum_parts<T>(problem, 1, problem.power_gradient);
}

template <class E, class F>
void scatter_gradients(const AverageProblem& problem) {
  if (problem.power_gradient != nullptr || problem.alpha_gradient != nullptr)
    scatter_all<E, F, F::kAlpha || F::kPower>(problem);
  else
    scatter_all<E, F, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
