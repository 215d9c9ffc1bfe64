// Weighted averages, forward: sums gathered frame by frame in each lane; where lanes are parts of one
// row they are merged at its end. The arithmetic is the same for both layouts.
#pragma once

#include "frames.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Write `count` bags' values, one per lane, from `cell` on in the (bags, classes) order.
template <class E>
inline void write_finished(const AverageProblem& problem, int64_t cell, int64_t count,
                           Moments<Arithmetic<E>> moments) {
  using T = Arithmetic<E>;
  const Finished<T> finished = finish<T>(moments);
  store_bags<E>(problem, cell, finished.y, count);
  store_lanes(statistics_row<T>(problem, kPeak) + cell, finished.peak, count);
  store_lanes(statistics_row<T>(problem, kTotal) + cell, finished.total, count);
  store_lanes(statistics_row<T>(problem, kAverage) + cell, finished.y, count);
}

template <class E>
inline void write_moments(const AverageProblem& problem, int64_t segments, int64_t segment,
                          int64_t cell, int64_t count, Moments<Arithmetic<E>> moments) {
  using T = Arithmetic<E>;
  if (segments == 1) {
    write_finished<E>(problem, cell, count, moments);
    return;
  }
  const int64_t cells = problem.bags * problem.classes;
  T* part = static_cast<T*>(problem.scratch) + segment * kMomentRows * cells + cell;
  for (int row = 0; row < kMomentRows; ++row)
    store_lanes(part + row * cells, moments.rows[row], count);
}

// A row of contiguous frames.
template <class E, class F>
Moments<Arithmetic<E>> gather_row(const AverageProblem& problem, int64_t bag, int64_t class_index,
                                  int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const E* x = at<E>(problem.x, bag, class_index, 0);
  const E* scores = F::kScores ? at<E>(problem.scores, bag, class_index, 0) : x;
  const uint8_t* mask = mask_row(problem, bag);
  const Coefficients<T> coefficients{broadcast_coefficient<T>(problem.alpha, class_index),
                                     broadcast_coefficient<T>(problem.power, class_index)};
  Gatherer<T, F> gatherer;
  Vector<T> raw[kGroup];
  Vector<T> score[kGroup];
  int64_t frame = first;
  if (mask == nullptr) {
    for (; frame + kGroup * kStep <= last; frame += kGroup * kStep) {
      for (int k = 0; k < kGroup; ++k) {
        raw[k] = load(x + frame + k * kStep);
        score[k] = F::kScores ? load(scores + frame + k * kStep) : raw[k];
      }
      gatherer.template gather<kGroup, true>(raw, score, nullptr, coefficients,
                                             problem.activation);
    }
  }
  for (; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    raw[0] = load_lanes(x + frame, count);
    score[0] = F::kScores ? load_lanes(scores + frame, count) : raw[0];
    const Integer<T> real = real_lanes<T>(problem, mask, frame, count);
    gatherer.template gather<1, false>(raw, score, &real, coefficients, problem.activation);
  }
  return merge_lanes<T>(gatherer.moments());
}

// A block of contiguous classes.
template <class E, class F>
void gather_classes(const AverageProblem& problem, int64_t segments, int64_t bag, int64_t segment,
                    int64_t class_start, int64_t class_end, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  Gatherer<T, F> gatherers[kClassVectors];
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
      const Coefficients<T> coefficients{load_coefficient<T>(problem.alpha, index, lanes),
                                         load_coefficient<T>(problem.power, index, lanes)};
      Vector<T> raw[kGroup];
      Vector<T> score[kGroup];
      for (int k = 0; k < count; ++k) {
        raw[k] = load_lanes(x[k] + index, lanes);
        score[k] = F::kScores ? load_lanes(scores[k] + index, lanes) : raw[k];
      }
      if (count == kGroup) {
        gatherers[block].template gather<kGroup, true>(raw, score, nullptr, coefficients,
                                                       problem.activation);
      } else {
        for (int k = 0; k < count; ++k)
          gatherers[block].template gather<1, true>(raw + k, score + k, nullptr, coefficients,
                                                    problem.activation);
      }
    }
  }
  for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
    const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
    write_moments<E>(problem, segments, segment, bag * problem.classes + index, lanes,
                     gatherers[block].moments());
  }
}

// Join the segments of long bags, in order.
template <class E>
void merge_segments(const AverageProblem& problem, int64_t segments) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t cells = problem.bags * problem.classes;
  for (int64_t cell = 0; cell < cells; cell += kStep) {
    const int64_t count = cells - cell < kStep ? cells - cell : kStep;
    Moments<T> whole{};
    for (int64_t segment = 0; segment < segments; ++segment) {
      const T* part =
          static_cast<const T*>(problem.scratch) + segment * kMomentRows * cells + cell;
      Moments<T> moments;
      for (int row = 0; row < kMomentRows; ++row)
        moments.rows[row] = load_lanes(part + row * cells, count);
      whole = segment == 0 ? moments : merge<T>(whole, moments);
    }
    write_finished<E>(problem, cell, count, whole);
  }
}

template <class E, class F>
void gather_averages(const AverageProblem& problem) {
  using T = Arithmetic<E>;
  const int64_t segments = segments_of(problem.frames);
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  const auto last_of = [&](int64_t segment) {
    return segment + 1 == segments ? problem.frames : (segment + 1) * kSegmentFrames;
  };
  if (problem.frames_contiguous) {
    const int64_t rows = problem.bags * problem.classes;
    parallel_for(rows * segments, elements, problem.threads, [&](int64_t task) {
      const int64_t cell = task / segments;
      const int64_t segment = task % segments;
      const Moments<T> moments =
          gather_row<E, F>(problem, cell / problem.classes, cell % problem.classes,
                           segment * kSegmentFrames, last_of(segment));
      write_moments<E>(problem, segments, segment, cell, 1, moments);
    });
  } else {
    constexpr int64_t kBlock = kClassVectors * kLanes<T>;
    const int64_t blocks = (problem.classes + kBlock - 1) / kBlock;
    parallel_for(problem.bags * segments * blocks, elements, problem.threads, [&](int64_t task) {
      const int64_t start = task % blocks * kBlock;
      const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
      const int64_t segment = task / blocks % segments;
      gather_classes<E, F>(problem, segments, task / blocks / segments, segment, start, end,
                           segment * kSegmentFrames, last_of(segment));
    });
  }
  if (segments > 1) merge_segments<E>(problem, segments);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
