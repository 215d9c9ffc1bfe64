// Forward passes of families whose bag value comes from sums that are gathered frame by frame and
// merged part by part: the walk over layouts, segments and threads, the same for all of them.
//
// A family F for elements E has
//   kRows, the vectors of a part's sums; kScores, whether it reads scores beside x;
//   kFewInstructions, whether a frame takes hardly more time than to be read; kLongChains, whether
//     its instructions are many and wait for one another; kChained, whether those of a group wait
//     long for the group before;
//   kDecays, whether decay(raw) is what its passes over logits begin with; kKeeps, whether those of
//     contiguous frames may be kept for the backward pass;
//   Coefficients, of the kind in constants.h, and coefficients(problem, class_index, count): what
//     it reads for each class;
//   Gatherer: gather<kCount, kAll>(raw, decay, score, real, coefficients) takes kCount frames in
//     each lane, with kAll all of them real; rows() are its sums;
//   merge(a, b, coefficients): the sums of two parts together;
//   kMergesByClass, whether merging depends on the coefficients;
//   write(problem, cell, count, rows, coefficients): the bag values, and what the backward pass
//     needs.
#pragma once

#include "gather_classes.h"
#include "parallel.h"
#include "transpose.h"
#include "turn.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Where the decays of a row of frames are kept; null if they are not.
template <class E, class F, class Problem>
MILKERNELS_INLINE E* decays_at(const Problem& problem, int64_t bag, int64_t class_index) {
  if constexpr (F::kKeeps && std::is_same_v<E, float>)
    if (problem.keeps_decays) return at_mutable<E>(problem.x_gradient, bag, class_index, 0);
  return nullptr;
}

// Takes kVectors vectors of frames of one row.
template <class E, class F, int kVectors, bool kAll, class Lanes>
MILKERNELS_INLINE void gather_vectors(typename F::Gatherer& gatherer, const E* x, const E* scores,
                                      E* decays, const Lanes& lanes_of,
                                      const typename F::Coefficients& coefficients) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  Vector<T> raw[kVectors];
  Vector<T> decay[kVectors];
  Vector<T> score[kVectors];
  Integer<T> real[kVectors];
  int64_t count[kVectors];
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    const PresentLanes<T> lanes = lanes_of(k);
    raw[k] = load_lanes(x + k * kStep, lanes.count);
    score[k] = F::kScores ? load_lanes(scores + k * kStep, lanes.count) : raw[k];
    real[k] = lanes.real;
    count[k] = lanes.count;
  }
  take_decays<F, kVectors, T>(raw, decay);
  if constexpr (F::kKeeps && std::is_same_v<E, float>)
    if (decays != nullptr) {
      MILKERNELS_UNROLL
      for (int k = 0; k < kVectors; ++k) store_lanes(decays + k * kStep, decay[k], count[k]);
    }
  gatherer.template gather<kVectors, kAll>(raw, decay, score, real, coefficients);
}

// A row of contiguous frames, which begins at frame `origin` of a bag; decays null if they are not
// kept.
template <class E>
struct Row {
  const E* x;
  const E* scores;
  E* decays;
  int64_t origin = 0;
};

// What a gatherer becomes by frames `first` to `last` of a row.
template <class E, class F, class Problem>
MILKERNELS_INLINE typename F::Gatherer gather_row(const Problem& problem, int64_t bag,
                                                  const Row<E>& row, int64_t first, int64_t last,
                                                  const typename F::Coefficients& coefficients,
                                                  typename F::Gatherer gatherer = {}) {
  walk_row<Arithmetic<E>, kGathered<E, F>>(
      problem, mask_row(problem, bag), first, last,
      [&](auto vectors, auto all, int64_t frame, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        const int64_t index = frame - row.origin;
        fetch_ahead<vectors>(row.x + index);
        if constexpr (F::kScores) fetch_ahead<vectors>(row.scores + index);
        gather_vectors<E, F, vectors, all>(gatherer, row.x + index, row.scores + index,
                                           row.decays == nullptr ? nullptr : row.decays + index,
                                           lanes_of, coefficients);
      },
      [](int64_t) {});
  return gatherer;
}

// Lane k of the sums of each of `count` rows is a part of that row: the rows' sums, one lane for
// each. Halves are merged while they are brought side by side, so that each step has half the
// vectors of the one before.
template <class T, class F, int kDistance = kLanes<T> / 2>
Rows<T, F::kRows> merge_across_lanes(Rows<T, F::kRows>* rows, int64_t count,
                                     const typename F::Coefficients& coefficients) {
  constexpr auto kEvery = std::make_integer_sequence<int, kLanes<T>>();
  if constexpr (F::kMergesByClass && kDistance == kLanes<T> / 2)
    for (int row = 0; row < F::kRows; ++row) {
      Vector<T> block[kLanes<T>];
      for (int lane = 0; lane < kLanes<T>; ++lane) block[lane] = rows[lane].row[row];
      transpose<T>(block);
      for (int lane = 0; lane < kLanes<T>; ++lane) rows[lane].row[row] = block[lane];
    }
  for (int part = 0; part < kDistance && (F::kMergesByClass || part < count); ++part) {
    Rows<T, F::kRows> upper = rows[part], lower = rows[part + kDistance];
    if constexpr (!F::kMergesByClass) {
      MILKERNELS_UNROLL
      for (int row = 0; row < F::kRows; ++row)
        swap_blocks<T, kDistance>(upper.row[row], lower.row[row], kEvery);
    }
    rows[part] = F::merge(upper, lower, coefficients);
  }
  if constexpr (kDistance > 1)
    return merge_across_lanes<T, F, kDistance / 2>(rows, count, coefficients);
  return rows[0];
}

// Up to a vector of classes, each a row of contiguous frames.
template <class E, class F, class Problem>
void gather_rows(const Problem& problem, int64_t segments, const Stretch& task) {
  using T = Arithmetic<E>;
  const int64_t count = task.class_end - task.class_start;
  const auto coefficients = F::coefficients(problem, task.class_start, count);
  Rows<T, F::kRows> rows[kLanes<T>] = {};
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t index = task.class_start + lane;
    const Row<E> row{at<E>(problem.x, task.bag, index, 0),
                     at<E>(scores_or_x<F::kScores>(problem), task.bag, index, 0),
                     decays_at<E, F>(problem, task.bag, index)};
    rows[lane] =
        gather_row<E, F>(problem, task.bag, row, task.first, task.last, spread(coefficients, lane))
            .rows();
  }
  write_part<E, F>(problem, segments, task.segment, task.bag * problem.classes + task.class_start,
                   count, merge_across_lanes<T, F>(rows, count, coefficients), coefficients);
}

// Few contiguous classes, a block of frames after the other as such rows.
template <class E, class F, class Problem>
void gather_turned(const Problem& problem, int64_t segments, const Stretch& task) {
  using T = Arithmetic<E>;
  const int64_t classes = task.class_end - task.class_start;
  Problem few = problem;
  few.classes = classes;
  few.x.data = at_mutable<E>(few.x, 0, task.class_start, 0);
  if constexpr (F::kScores) few.scores.data = at_mutable<E>(few.scores, 0, task.class_start, 0);
  const auto coefficients = F::coefficients(problem, task.class_start, classes);
  Room<typename F::Gatherer, kLanes<T>> gatherers;
  for (int64_t lane = 0; lane < classes; ++lane) gatherers.make(lane, {});
  Block<E> x;
  Block<E> scores;
  for_blocks(task.first, task.last, [&](int64_t first, int64_t last) {
    turn(few, few.x, task.bag, first, last, x);
    if constexpr (F::kScores) turn(few, few.scores, task.bag, first, last, scores);
    for (int64_t lane = 0; lane < classes; ++lane) {
      const Row<E> row{x.row(lane), F::kScores ? scores.row(lane) : x.row(lane), nullptr, first};
      gatherers[lane] = gather_row<E, F>(problem, task.bag, row, first, last,
                                         spread(coefficients, lane), gatherers[lane]);
    }
  });
  Rows<T, F::kRows> rows[kLanes<T>] = {};
  for (int64_t lane = 0; lane < classes; ++lane) rows[lane] = gatherers[lane].rows();
  write_part<E, F>(problem, segments, task.segment, task.bag * problem.classes + task.class_start,
                   classes, merge_across_lanes<T, F>(rows, classes, coefficients), coefficients);
}

// The classes that fill no vector are turned, if there are others.
template <class E, class F, class Problem>
void gather_rest_turned(const Problem& problem, int64_t segments, const Stretch& task) {
  const int64_t whole = problem.classes / kLanes<Arithmetic<E>> * kLanes<Arithmetic<E>>;
  Stretch part = task;
  part.class_end = whole;
  if (whole > 0) gather_classes<E, F>(problem, segments, part);
  part.class_start = whole;
  part.class_end = task.class_end;
  gather_turned<E, F>(problem, segments, part);
}

// Frames of a vector of classes, one frame's after the other's.
template <class E, class F, class Problem>
void gather_vector(const Problem& problem, const Stretch& task, int64_t frames, const E* x,
                   const E* scores) {
  using T = Arithmetic<E>;
  const int64_t count = task.class_end - task.class_start;
  const auto coefficients = F::coefficients(problem, task.class_start, count);
  typename F::Gatherer gatherer;
  int64_t frame = 0;
  const auto take = [&](auto vectors) MILKERNELS_INLINE_LAMBDA {
    const auto all = [](int) MILKERNELS_INLINE_LAMBDA {
      return PresentLanes<T>{every_lane<T>(), kLanes<T>};
    };
    gather_vectors<E, F, vectors, true>(gatherer, x + frame * kLanes<T>, scores + frame * kLanes<T>,
                                        nullptr, all, coefficients);
  };
  in_groups<T, kGathered<E, F>>(frame, frames, take);
  F::write(problem, task.bag * problem.classes + task.class_start, count, gatherer.rows(),
           coefficients);
}

template <class E, class F, class Problem>
void gather_transposed(const Problem& problem, const Stretch& task) {
  constexpr int64_t kValues = kShortRow * int64_t{kLanes<E>};
  alignas(64) E values[F::kScores ? 2 * kValues : kValues];
  E* const scores = F::kScores ? values + kValues : values;
  transpose_rows<E>(problem.x, task, values);
  int64_t frames = keep_real<E>(problem, task, values);
  if constexpr (F::kScores) {
    transpose_rows<E>(problem.scores, task, scores);
    frames = keep_real<E>(problem, task, scores);
  }
  gather_vector<E, F>(problem, task, frames, values, scores);
}

// Join the segments of long bags: neighbours, and then neighbours of what they gave, so that errors
// grow with the logarithm of their number. Each pair's place is the first one's.
template <class E, class F, class Problem>
void merge_parts(const Problem& problem, int64_t segments) {
  using T = Arithmetic<E>;
  using Sums = Rows<T, F::kRows>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t cells = problem.bags * problem.classes;
  const int64_t blocks = (problem.classes + kStep - 1) / kStep;
  parallel_for(problem.bags * blocks, cells * segments, problem.threads, [&](int64_t task) {
    const int64_t index = task % blocks * kStep;
    const int64_t cell = task / blocks * problem.classes + index;
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    const auto coefficients = F::coefficients(problem, index, count);
    const auto part = [&](int64_t segment, int row) {
      return static_cast<T*>(problem.scratch) + (segment * F::kRows + row) * cells + cell;
    };
    const auto read = [&](int64_t segment) {
      Sums sums;
      for (int row = 0; row < F::kRows; ++row)
        sums.row[row] = load_lanes(part(segment, row), count);
      return sums;
    };
    for (int64_t step = 1; step < segments; step *= 2)
      for (int64_t first = 0; first + step < segments; first += 2 * step) {
        const Sums joint = F::merge(read(first), read(first + step), coefficients);
        for (int row = 0; row < F::kRows; ++row)
          store_lanes(part(first, row), joint.row[row], count);
      }
    F::write(problem, cell, count, read(0), coefficients);
  });
}

template <class E, class F, class Problem>
void gather(const Problem& problem) {
  const bool transposed =
      kTransposes<E> && is_transposed<E>(problem, kLongestTransposed<F::kFewInstructions>);
  const int64_t segments = transposed ? 1 : segments_of(problem);
  const Stretches stretches(problem, segments, kLanes<Arithmetic<E>>, transposed);
  parallel_for(stretches.count(), elements_of(problem), problem.threads, [&](int64_t index) {
    const Stretch task = stretches.at(index);
    if constexpr (kTransposes<E>)
      if (transposed && fills_lanes<E>(task.class_end - task.class_start))
        return gather_transposed<E, F>(problem, task);
    if (are_joined<E, F>(problem)) return gather_joined<E, F>(problem, segments, task);
    if constexpr (kTurns<E>)
      if (gathers_turned<E, F>(problem)) return gather_rest_turned<E, F>(problem, segments, task);
    if (problem.frames_contiguous)
      gather_rows<E, F>(problem, segments, task);
    else
      gather_classes<E, F>(problem, segments, task);
  });
  if (segments > 1) merge_parts<E, F>(problem, segments);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
