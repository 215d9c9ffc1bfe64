// Weighted averages, forward and backward. Frames contiguous: a task is a row of frames, lanes run
// along it and are merged at its end. Classes contiguous: a task is a block of classes, lanes are
// classes. The arithmetic is the same.
#pragma once

#include "moments.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Frames taken at once in each lane, so that the peak is checked once for all of them.
constexpr int kGroup = 4;

// Vectors of classes that one task keeps its sums for.
constexpr int kClassVectors = 16;

template <class E>
const E* at(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return static_cast<const E*>(tensor.data) + bag * tensor.stride_bag +
         class_index * tensor.stride_class + frame * tensor.stride_frame;
}

template <class E>
E* at_mutable(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return const_cast<E*>(at<E>(tensor, bag, class_index, frame));
}

template <class E>
inline Vector<Arithmetic<E>> load_lanes(const E* from, int64_t count) {
  return count == kLanes<Arithmetic<E>> ? load(from) : load_first(from, count);
}

template <class E>
inline void store_lanes(E* to, Vector<Arithmetic<E>> value, int64_t count) {
  if (count == kLanes<Arithmetic<E>>)
    store(to, value);
  else
    store_first(to, value, count);
}

template <class T>
inline Vector<T> load_coefficient(const void* values, int64_t class_index, int64_t count) {
  if (values == nullptr) return broadcast(T(1));
  return load_lanes(static_cast<const T*>(values) + class_index, count);
}

template <class T>
inline Vector<T> broadcast_coefficient(const void* values, int64_t class_index) {
  return broadcast(values == nullptr ? T(1) : static_cast<const T*>(values)[class_index]);
}

template <class T>
inline T* statistics_row(const AverageProblem& problem, int row) {
  return static_cast<T*>(problem.statistics) + row * problem.bags * problem.classes;
}

inline const uint8_t* mask_row(const Problem& problem, int64_t bag) {
  return problem.mask == nullptr ? nullptr : problem.mask + bag * problem.mask_stride_bag;
}

// Write `count` bags' values, one per lane, from `cell` on in the (bags, classes) order.
template <class E, class F, bool kLearn>
inline void write_finished(const AverageProblem& problem, int64_t cell, int64_t count,
                           Moments<Arithmetic<E>> moments) {
  using T = Arithmetic<E>;
  const Finished<T> finished = finish<T>(moments);
  store_lanes(static_cast<E*>(problem.y) + cell, finished.y, count);
  store_lanes(statistics_row<T>(problem, kPeak) + cell, finished.peak, count);
  store_lanes(statistics_row<T>(problem, kInverseTotal) + cell, finished.inverse_total, count);
  store_lanes(statistics_row<T>(problem, kAverage) + cell, finished.y, count);
  if constexpr (kLearn) {
    int row = kCovariances;
    if constexpr (F::kAlpha)
      store_lanes(statistics_row<T>(problem, row++) + cell, moments.variance(), count);
    if constexpr (F::kPower)
      store_lanes(statistics_row<T>(problem, row) + cell, moments.covariance(), count);
  }
}

template <class E, class F, bool kLearn>
inline void write_moments(const AverageProblem& problem, int64_t segments, int64_t segment,
                          int64_t cell, int64_t count, Moments<Arithmetic<E>> moments) {
  using T = Arithmetic<E>;
  if (segments == 1) {
    write_finished<E, F, kLearn>(problem, cell, count, moments);
    return;
  }
  const int64_t cells = problem.bags * problem.classes;
  T* part = static_cast<T*>(problem.partial) + segment * kMomentRows * cells + cell;
  for (int row = 0; row < kMomentRows; ++row)
    store_lanes(part + row * cells, moments.rows[row], count);
}

// A row of contiguous frames.
template <class E, class F, bool kLearn>
Moments<Arithmetic<E>> gather_row(const AverageProblem& problem, int64_t bag, int64_t class_index,
                                  int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const E* x = at<E>(problem.x, bag, class_index, 0);
  const E* scores = F::kScores ? at<E>(problem.scores, bag, class_index, 0) : x;
  const uint8_t* mask = mask_row(problem, bag);
  const Vector<T> alpha = broadcast_coefficient<T>(problem.alpha, class_index);
  const Vector<T> power = broadcast_coefficient<T>(problem.power, class_index);
  Gatherer<T, F, kLearn> gatherer;
  Vector<T> raw[kGroup];
  Vector<T> score[kGroup];
  Integer<T> real[kGroup];
  int64_t frame = first;
  if (mask == nullptr) {
    for (; frame + kGroup * kStep <= last; frame += kGroup * kStep) {
      for (int k = 0; k < kGroup; ++k) {
        raw[k] = load(x + frame + k * kStep);
        score[k] = F::kScores ? load(scores + frame + k * kStep) : raw[k];
      }
      gatherer.template gather<kGroup, true>(raw, score, real, alpha, power, problem.activation);
    }
    for (; frame + kStep <= last; frame += kStep) {
      raw[0] = load(x + frame);
      score[0] = F::kScores ? load(scores + frame) : raw[0];
      gatherer.template gather<1, true>(raw, score, real, alpha, power, problem.activation);
    }
  }
  for (; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    raw[0] = load_lanes(x + frame, count);
    score[0] = F::kScores ? load_lanes(scores + frame, count) : raw[0];
    real[0] = first_lanes<T>(count);
    if (mask != nullptr) {
      if (problem.mask_stride_frame == 1) {
        real[0] &= load_flags<T>(mask + frame, count);
      } else {
        for (int64_t lane = 0; lane < count; ++lane)
          if (!mask[(frame + lane) * problem.mask_stride_frame]) real[0][lane] = 0;
      }
    }
    gatherer.template gather<1, false>(raw, score, real, alpha, power, problem.activation);
  }
  return merge_lanes<T, kLearn>(gatherer.moments());
}

// A block of contiguous classes.
template <class E, class F, bool kLearn>
void gather_classes(const AverageProblem& problem, int64_t segments, int64_t bag, int64_t segment,
                    int64_t class_start, int64_t class_end, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  Gatherer<T, F, kLearn> gatherers[kClassVectors];
  int64_t frame = first;
  while (frame < last) {
    // Masked frames are passed over whole: in this layout a frame is real for every class.
    int64_t taken[kGroup];
    int count = 0;
    for (; frame < last && count < kGroup; ++frame)
      if (mask == nullptr || mask[frame * problem.mask_stride_frame]) taken[count++] = frame;
    const E* x[kGroup];
    const E* scores[kGroup];
    for (int k = 0; k < count; ++k) {
      x[k] = at<E>(problem.x, bag, 0, taken[k]);
      scores[k] = F::kScores ? at<E>(problem.scores, bag, 0, taken[k]) : x[k];
    }
    for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
      const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
      const Vector<T> alpha = load_coefficient<T>(problem.alpha, index, lanes);
      const Vector<T> power = load_coefficient<T>(problem.power, index, lanes);
      Vector<T> raw[kGroup];
      Vector<T> score[kGroup];
      for (int k = 0; k < count; ++k) {
        raw[k] = load_lanes(x[k] + index, lanes);
        score[k] = F::kScores ? load_lanes(scores[k] + index, lanes) : raw[k];
      }
      if (count == kGroup) {
        gatherers[block].template gather<kGroup, true>(raw, score, nullptr, alpha, power,
                                                       problem.activation);
      } else {
        for (int k = 0; k < count; ++k)
          gatherers[block].template gather<1, true>(raw + k, score + k, nullptr, alpha, power,
                                                    problem.activation);
      }
    }
  }
  for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
    const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
    write_moments<E, F, kLearn>(problem, segments, segment, bag * problem.classes + index, lanes,
                                gatherers[block].moments());
  }
}

// Join the segments of long bags, in order.
template <class E, class F, bool kLearn>
void merge_segments(const AverageProblem& problem, int64_t segments) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t cells = problem.bags * problem.classes;
  for (int64_t cell = 0; cell < cells; cell += kStep) {
    const int64_t count = cells - cell < kStep ? cells - cell : kStep;
    Moments<T> whole{};
    for (int64_t segment = 0; segment < segments; ++segment) {
      const T* part =
          static_cast<const T*>(problem.partial) + segment * kMomentRows * cells + cell;
      Moments<T> moments;
      for (int row = 0; row < kMomentRows; ++row)
        moments.rows[row] = load_lanes(part + row * cells, count);
      whole = segment == 0 ? moments : merge<T>(whole, moments);
    }
    write_finished<E, F, kLearn>(problem, cell, count, whole);
  }
}

template <class E, class F, bool kLearn>
void average_forward(const AverageProblem& problem) {
  using T = Arithmetic<E>;
  const int64_t segments = segments_of(problem.frames);
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  if (problem.frames_contiguous) {
    const int64_t rows = problem.bags * problem.classes;
    parallel_for(rows * segments, elements, problem.threads, [&](int64_t task) {
      const int64_t cell = task / segments;
      const int64_t segment = task % segments;
      const int64_t first = segment * kSegmentFrames;
      const int64_t last =
          segment + 1 == segments ? problem.frames : first + kSegmentFrames;
      const Moments<T> moments = gather_row<E, F, kLearn>(
          problem, cell / problem.classes, cell % problem.classes, first, last);
      write_moments<E, F, kLearn>(problem, segments, segment, cell, 1, moments);
    });
  } else {
    constexpr int64_t kBlock = kClassVectors * kLanes<T>;
    const int64_t blocks = (problem.classes + kBlock - 1) / kBlock;
    parallel_for(problem.bags * segments * blocks, elements, problem.threads, [&](int64_t task) {
      const int64_t start = task % blocks * kBlock;
      const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
      const int64_t segment = task / blocks % segments;
      const int64_t first = segment * kSegmentFrames;
      const int64_t last =
          segment + 1 == segments ? problem.frames : first + kSegmentFrames;
      gather_classes<E, F, kLearn>(problem, segments, task / blocks / segments, segment, start,
                                   end, first, last);
    });
  }
  if (segments > 1) merge_segments<E, F, kLearn>(problem, segments);
}

// What the backward pass reads for each bag and class, in one vector's lanes.
template <class T>
struct BagConstants {
  Vector<T> scale;
  Vector<T> y;
  Vector<T> peak;
  Vector<T> alpha;
  Vector<T> power;
};

template <class E, class F, bool kBroadcast>
inline BagConstants<Arithmetic<E>> bag_constants(const AverageProblem& problem, int64_t bag,
                                                 int64_t class_index, int64_t count) {
  using T = Arithmetic<E>;
  const int64_t cell = bag * problem.classes + class_index;
  const E* gradient = static_cast<const E*>(problem.gradient) + cell;
  const T* inverse = statistics_row<T>(problem, kInverseTotal) + cell;
  const T* y = statistics_row<T>(problem, kAverage) + cell;
  const T* peak = statistics_row<T>(problem, kPeak) + cell;
  if constexpr (kBroadcast) {
    return {broadcast(load_first(gradient, 1)[0] * *inverse), broadcast(*y), broadcast(*peak),
            broadcast_coefficient<T>(problem.alpha, class_index),
            broadcast_coefficient<T>(problem.power, class_index)};
  } else {
    return {load_lanes(gradient, count) * load_lanes(inverse, count), load_lanes(y, count),
            load_lanes(peak, count), load_coefficient<T>(problem.alpha, class_index, count),
            load_coefficient<T>(problem.power, class_index, count)};
  }
}

// The gradients of one vector of frames; the scores' goes to scores_gradient.
template <class T, class F>
inline Vector<T> vector_gradient(const AverageProblem& problem, const BagConstants<T>& bag,
                                 Vector<T> raw, Vector<T> score, Vector<T>& scores_gradient) {
  const Weighed<T> frame =
      F::template weigh<T>(raw, score, bag.alpha, bag.power, problem.activation);
  Vector<T> weight = bag.scale * frame.factor;
  if constexpr (!F::kDirect) weight *= exponential(frame.log_weight - bag.peak);
  const Vector<T> residual = frame.x - bag.y;
  if constexpr (F::kScores)
    scores_gradient =
        weight * residual * activation_derivative<T>(score, problem.activation);
  return weight * F::template frame_gradient<T>(raw, frame, residual, bag.alpha, bag.power);
}

template <class E, class F>
void scatter_row(const AverageProblem& problem, int64_t bag, int64_t class_index, int64_t first,
                 int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const BagConstants<T> constants = bag_constants<E, F, true>(problem, bag, class_index, 1);
  const E* x = at<E>(problem.x, bag, class_index, 0);
  E* x_gradient = at_mutable<E>(problem.x_gradient, bag, class_index, 0);
  const E* scores = F::kScores ? at<E>(problem.scores, bag, class_index, 0) : x;
  E* scores_gradient =
      F::kScores ? at_mutable<E>(problem.scores_gradient, bag, class_index, 0) : x_gradient;
  const uint8_t* mask = mask_row(problem, bag);
  for (int64_t frame = first; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    Vector<T> to_scores{};
    Vector<T> to_x = constants.scale;
    if constexpr (F::kReadsValues) {
      const Vector<T> raw = load_lanes(x + frame, count);
      const Vector<T> score = F::kScores ? load_lanes(scores + frame, count) : raw;
      to_x = vector_gradient<T, F>(problem, constants, raw, score, to_scores);
    }
    if (mask != nullptr) {
      for (int64_t lane = 0; lane < count; ++lane) {
        if (mask[(frame + lane) * problem.mask_stride_frame]) continue;
        to_x[lane] = 0;
        to_scores[lane] = 0;
      }
    }
    store_lanes(x_gradient + frame, to_x, count);
    if constexpr (F::kScores) store_lanes(scores_gradient + frame, to_scores, count);
  }
}

template <class E, class F>
void scatter_classes(const AverageProblem& problem, int64_t bag, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  for (int64_t frame = first; frame < last; ++frame) {
    const bool real = mask == nullptr || mask[frame * problem.mask_stride_frame];
    const E* x = at<E>(problem.x, bag, 0, frame);
    E* x_gradient = at_mutable<E>(problem.x_gradient, bag, 0, frame);
    const E* scores = F::kScores ? at<E>(problem.scores, bag, 0, frame) : x;
    E* scores_gradient =
        F::kScores ? at_mutable<E>(problem.scores_gradient, bag, 0, frame) : x_gradient;
    for (int64_t index = 0; index < problem.classes; index += kStep) {
      const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
      Vector<T> to_scores{};
      Vector<T> to_x{};
      if (real) {
        const BagConstants<T> constants =
            bag_constants<E, F, false>(problem, bag, index, count);
        to_x = constants.scale;
        if constexpr (F::kReadsValues) {
          const Vector<T> raw = load_lanes(x + index, count);
          const Vector<T> score = F::kScores ? load_lanes(scores + index, count) : raw;
          to_x = vector_gradient<T, F>(problem, constants, raw, score, to_scores);
        }
      }
      store_lanes(x_gradient + index, to_x, count);
      if constexpr (F::kScores) store_lanes(scores_gradient + index, to_scores, count);
    }
  }
}

// A learned parameter's gradient: Σ over bags of dL/dy times its covariance, bag after bag.
template <class E>
void sum_over_bags(const AverageProblem& problem, int row, void* result) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    Vector<T> sum{};
    for (int64_t bag = 0; bag < problem.bags; ++bag) {
      const int64_t cell = bag * problem.classes + index;
      sum += load_lanes(static_cast<const E*>(problem.gradient) + cell, count) *
             load_lanes(statistics_row<T>(problem, row) + cell, count);
    }
    store_lanes(static_cast<T*>(result) + index, sum, count);
  }
}

template <class E, class F>
void average_backward(const AverageProblem& problem) {
  // Frames of a task: enough of them to be worth handing out.
  constexpr int64_t kTaskElements = 32768;
  const int64_t width = problem.frames_contiguous ? 1 : problem.classes;
  const int64_t share = kTaskElements / (width > 0 ? width : 1);
  const int64_t frames = share < 1 ? 1 : share;
  const int64_t parts = (problem.frames + frames - 1) / frames;
  const int64_t rows = problem.frames_contiguous ? problem.bags * problem.classes : problem.bags;
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(rows * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t row = task / parts;
    const int64_t first = task % parts * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    if (problem.frames_contiguous)
      scatter_row<E, F>(problem, row / problem.classes, row % problem.classes, first, last);
    else
      scatter_classes<E, F>(problem, row, first, last);
  });
  int row = kCovariances;
  if (problem.alpha_gradient != nullptr) sum_over_bags<E>(problem, row++, problem.alpha_gradient);
  if (problem.power_gradient != nullptr) sum_over_bags<E>(problem, row, problem.power_gradient);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
