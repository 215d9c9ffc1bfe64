// Weighted averages, backward: elementwise in the frames, beside the sums that learned parameters
// need.
#pragma once

#include "line.h"
#include "parallel.h"
#include "transpose.h"
#include "turn.h"
#include "weighted_average_gradients.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// A row of contiguous frames, which begins at frame `origin` of a bag.
template <class E, class F, bool kLearn, bool kKept, bool kLarge = false>
MILKERNELS_INLINE void scatter_row(const AverageProblem& problem, int64_t bag, const Places<E>& row,
                                   int64_t origin, int64_t first, int64_t last,
                                   const BagConstants<Arithmetic<E>>& constants,
                                   ParameterSums<Arithmetic<E>>& sums) {
  using T = Arithmetic<E>;
  constexpr int kGroupSize = kLargeGroup<T, F::kDecays>;
  const bool far = are_far<E>(problem);
  const auto bag_of = [&](int) MILKERNELS_INLINE_LAMBDA -> const auto& { return constants; };
  const auto sums_of = [&](int) MILKERNELS_INLINE_LAMBDA -> auto& { return sums; };
  walk_row<T, kGroupSize>(
      problem, mask_row(problem, bag), first, last,
      [&](auto vectors, auto, int64_t frame, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        scatter_vectors<E, F, kLearn, kKept, vectors, kLarge>(bag_of, row.from(frame - origin), far,
                                                              lanes_of, sums_of);
      },
      [&](int64_t frame) {
        clear_group(row.x_gradient + frame - origin);
        if constexpr (F::kScores) clear_group(row.scores_gradient + frame - origin);
      });
}

// Up to a vector of classes, each a row of contiguous frames.
template <class E, class F, bool kLearn, bool kKept, bool kLarge = false>
void scatter_rows(const AverageProblem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  const int64_t count = task.class_end - task.class_start;
  const auto constants =
      bag_constants<E, kLearnsPower<F, kLearn>>(problem, task.bag, task.class_start, count);
  ParameterSums<T> sums[kLanes<T>];
  for (int64_t lane = 0; lane < count; ++lane)
    scatter_row<E, F, kLearn, kKept, kLarge>(
        problem, task.bag, places_of<E, F::kScores>(problem, task.bag, task.class_start + lane, 0),
        0, task.first, task.last, spread(constants, lane), sums[lane]);
  if constexpr (kLearn) write_sums<T>(problem, task, sums);
}

// Whether the frames, and their gradients, are lines. The sums for learned parameters are a row's
// own: to deal them out takes longer than a line of rows saves.
template <class E, class F, bool kLearn>
bool is_line(const AverageProblem& problem) {
  constexpr bool kMuch = F::kDecays || !(F::kAlpha || F::kScores);
  const auto are = [&](const FrameTensor& frames, const FrameTensor& gradients) {
    return (kLinesOfRows<E> && !kLearn &&
            are_lines(problem, kLongestInLine<kMuch>, frames, gradients)) ||
           are_lines_of_classes(problem, frames, gradients);
  };
  return are(problem.x, problem.x_gradient) &&
         (!F::kScores || are(problem.scores, problem.scores_gradient));
}

// A line of values, with the constants of its rows or classes; take(shares, bags, k, count) gets
// what those of a group's k-th vector add to the sums of learned parameters.
template <class E, class F, bool kLearn, class Constants, class Take>
void scatter_line(Constants constants, const Places<E>& line, int64_t count, bool far,
                  const Take& take) {
  using T = Arithmetic<E>;
  walk_classes<T, kLargeGroup<T, F::kDecays>>(
      count, [&](auto vectors, auto, int64_t index, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        constexpr int kVectors = vectors;
        ParameterSums<T> shares[kVectors];
        const auto bag_of = constants.template next<kVectors>(index);
        const auto sums_of = [&](int k) MILKERNELS_INLINE_LAMBDA -> auto& { return shares[k]; };
        scatter_vectors<E, F, kLearn, false, kVectors>(bag_of, line.from(index), far, lanes_of,
                                                       sums_of);
        MILKERNELS_UNROLL
        for (int k = 0; kLearn && k < kVectors; ++k) take(shares[k], bag_of, k, lanes_of(k).count);
      });
}

// A task that is one.
template <class E, class F, bool kLearn>
void scatter_line(const AverageProblem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  const int64_t classes = task.class_end - task.class_start;
  const auto constants = [&](int64_t first, int64_t count) {
    return bag_constants<E, kLearnsPower<F, kLearn>>(problem, task.bag, task.class_start + first,
                                                     count);
  };
  const Places<E> line = places_of<E, F::kScores>(problem, task.bag, task.class_start, task.first);
  const int64_t count = classes * (task.last - task.first);
  const bool far = are_far<E>(problem);
  if constexpr (kLinesOfRows<E> && !kLearn)
    if (problem.frames_contiguous) {
      const ConstantsOfRows<BagConstants<T>> of_rows(problem.frames, constants(0, classes));
      return scatter_line<E, F, false>(of_rows, line, count, far, [](const auto&...) {});
    }
  SumsOfClasses<F> sums(kLearn ? classes : 0);
  const auto take = [&](const auto& shares, const auto& bags, int k, int64_t lanes)
                        MILKERNELS_INLINE_LAMBDA { sums.add(shares, bags.first_class[k], lanes); };
  with_constants_of_classes<E>(classes, constants, [&](const auto& of_classes) {
    scatter_line<E, F, kLearn>(of_classes, line, count, far, take);
  });
  if constexpr (kLearn)
    sums.write(problem, task.segment, task.bag * problem.classes + task.class_start);
}

// Frames of the longest rows that are transposed for learned parameters: a row's sums are then a
// lane's. Beside the arithmetic of logits that is little.
template <class F>
constexpr int64_t kLongestLearned = (F::kDecays ? 120 : 48) * kLanes<float> / 16;

template <class E, class F>
void scatter_transposed(const AverageProblem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  const int64_t count = task.class_end - task.class_start;
  const auto constants =
      bag_constants<E, kLearnsPower<F, true>>(problem, task.bag, task.class_start, count);
  ParameterSums<T> sums;
  alignas(64) E values[kShortRow * int64_t{kLanes<E>}];
  transpose_rows<E>(problem.x, task, values);
  const auto bag_of = [&](int) MILKERNELS_INLINE_LAMBDA -> const auto& { return constants; };
  const auto sums_of = [&](int) MILKERNELS_INLINE_LAMBDA -> auto& { return sums; };
  const Places<E> frames{values, values, values, values};
  walk_classes<T, kLargeGroup<T, F::kDecays>>(
      (task.last - task.first) * kLanes<T>,
      [&](auto vectors, auto, int64_t index, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        scatter_vectors<E, F, true, false, vectors>(bag_of, frames.from(index), false, lanes_of,
                                                    sums_of);
      });
  const int64_t cell = task.bag * problem.classes + task.class_start;
  write_sums<T>(problem, task.segment, cell, count, sums);
  transpose_rows_back<E>(values, task, problem.x_gradient);
}

// Few contiguous classes, a block of frames after the other as such rows.
template <class E, class F, bool kLearn>
void scatter_turned(const AverageProblem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  const auto constants =
      bag_constants<E, kLearnsPower<F, kLearn>>(problem, task.bag, 0, problem.classes);
  ParameterSums<T> sums[kLanes<T>];
  Block<E> x;
  Block<E> scores;
  Block<E> x_gradient;
  Block<E> scores_gradient;
  for_blocks(task.first, task.last, [&](int64_t first, int64_t last) {
    if constexpr (F::kReadsValues) turn(problem, problem.x, task.bag, first, last, x);
    if constexpr (F::kScores) turn(problem, problem.scores, task.bag, first, last, scores);
    for (int64_t lane = 0; lane < problem.classes; ++lane) {
      const Places<E> row{x.row(lane), scores.row(lane), x_gradient.row(lane),
                          scores_gradient.row(lane)};
      scatter_row<E, F, kLearn, false>(problem, task.bag, row, first, first, last,
                                       spread(constants, lane), sums[lane]);
    }
    turn_back(problem, x_gradient, task.bag, first, last, problem.x_gradient);
    if constexpr (F::kScores)
      turn_back(problem, scores_gradient, task.bag, first, last, problem.scores_gradient);
  });
  if constexpr (kLearn) write_sums<T>(problem, task, sums);
}

// A block of contiguous classes.
template <class E, class F, bool kLearn, bool kLarge = false>
void scatter_classes(const AverageProblem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, task.bag);
  const int64_t classes = task.class_end - task.class_start;
  const int64_t whole = classes / kStep;
  const int64_t rest = classes % kStep;
  const bool far = are_far<E>(problem);
  BagConstants<T> constants[kClassVectors] = {};
  ParameterSums<T> sums[kClassVectors];
  for (int64_t block = 0; block * kStep < classes; ++block)
    constants[block] = bag_constants<E, kLearnsPower<F, kLearn>>(
        problem, task.bag, task.class_start + block * kStep, block < whole ? kStep : rest);
  for (int64_t frame = task.first; frame < task.last; ++frame) {
    const Places<E> row = places_of<E, F::kScores>(problem, task.bag, task.class_start, frame);
    if (mask != nullptr && !mask[frame * problem.mask_stride_frame]) {
      const size_t bytes = static_cast<size_t>(classes) * sizeof(E);
      std::memset(row.x_gradient, 0, bytes);
      if constexpr (F::kScores) std::memset(row.scores_gradient, 0, bytes);
      continue;
    }
    int64_t block = 0;
    const auto bag_of = [&](int k) MILKERNELS_INLINE_LAMBDA -> const auto& {
      return constants[block + k];
    };
    const auto sums_of = [&](int k) MILKERNELS_INLINE_LAMBDA -> auto& { return sums[block + k]; };
    walk_classes<T, kLargeGroup<T, F::kDecays>>(
        classes,
        [&](auto vectors, auto, int64_t index, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
          block = index / kStep;
          scatter_vectors<E, F, kLearn, false, vectors, kLarge>(bag_of, row.from(index), far,
                                                                lanes_of, sums_of);
        });
  }
  if constexpr (kLearn) {
    const int64_t cell = task.bag * problem.classes + task.class_start;
    for (int64_t block = 0; block * kStep < classes; ++block)
      write_sums<T>(problem, task.segment, cell + block * kStep, block < whole ? kStep : rest,
                    sums[block]);
  }
}

// Whether a peak of the task's bags and classes is large.
template <class T>
bool has_large_peak(const AverageProblem& problem, const Stretch& task) {
  const T* peaks = statistics_row<T>(problem, kPeak) + task.bag * problem.classes;
  bool large = false;
  for (int64_t index = task.class_start; index < task.class_end; index += kLanes<T>) {
    const int64_t left = task.class_end - index;
    large |= any(are_large<T>(load_lanes(peaks + index, left < kLanes<T> ? left : kLanes<T>)));
  }
  return large;
}

template <class E, class F, bool kLearn, bool kKept>
[[gnu::noinline, gnu::cold]] void scatter_below_large(const AverageProblem& problem,
                                                      const Stretch& task) {
  if (problem.frames_contiguous)
    scatter_rows<E, F, kLearn, kKept, true>(problem, task);
  else
    scatter_classes<E, F, kLearn, true>(problem, task);
}

template <class E, class F, bool kLearn, bool kKept>
void scatter_all(const AverageProblem& problem) {
  using T = Arithmetic<E>;
  const bool transposed = kTransposes<E> && !kKept && kLearn && problem.mask == nullptr &&
                          is_transposed<E>(problem, kLongestLearned<F>);
  const Stretches stretches(problem, parts_of(problem), kLanes<T>, transposed);
  parallel_for(stretches.count(), elements_of(problem), problem.threads, [&](int64_t index) {
    const Stretch task = stretches.at(index);
    if constexpr (!F::kDirect)
      if (has_large_peak<T>(problem, task))
        return scatter_below_large<E, F, kLearn, kKept>(problem, task);
    if constexpr (kLinesOfClasses<E> && !kKept)
      if (is_line<E, F, kLearn>(problem)) return scatter_line<E, F, kLearn>(problem, task);
    if constexpr (kTransposes<E> && !kKept && kLearn)
      if (transposed && fills_lanes<E>(task.class_end - task.class_start))
        return scatter_transposed<E, F>(problem, task);
    if constexpr (kTurns<E> && !kKept)
      if (is_turned<E, F::kScores>(problem)) return scatter_turned<E, F, kLearn>(problem, task);
    if (problem.frames_contiguous)
      scatter_rows<E, F, kLearn, kKept>(problem, task);
    else
      scatter_classes<E, F, kLearn>(problem, task);
  });
  if (problem.alpha_gradient != nullptr) sum_parts<T>(problem, 0, problem.alpha_gradient);
  if (problem.power_gradient != nullptr) sum_parts<T>(problem, 1, problem.power_gradient);
}

template <class E, class F, bool kLearn>
void scatter_learning(const AverageProblem& problem) {
  if constexpr (F::kKeeps && std::is_same_v<E, float>)
    if (problem.keeps_decays && !is_turned<E, F::kScores>(problem))
      return scatter_all<E, F, kLearn, true>(problem);
  scatter_all<E, F, kLearn, false>(problem);
}

template <class E, class F>
void scatter_gradients(const AverageProblem& problem) {
  if (problem.power_gradient != nullptr || problem.alpha_gradient != nullptr)
    scatter_learning<E, F, F::kAlpha || F::kPower>(problem);
  else
    scatter_learning<E, F, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
