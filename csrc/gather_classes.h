// Forward passes over contiguous classes, of a family that gather.h describes.
#pragma once

#include "frames_at_once.h"
#include "gathered_part.h"
#include "room.h"
#include "turn.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// The constants of each vector of a block of contiguous classes, and their sums.
template <class F>
struct ClassVectors {
  Room<typename F::Coefficients, kClassVectors> coefficients;
  Room<typename F::Gatherer, kClassVectors> gatherers;
};

inline int64_t lanes_from(int64_t index, int64_t classes, int64_t lanes) {
  return classes - index < lanes ? classes - index : lanes;
}

// Adds a task's frames to what its classes' vectors sum to.
template <class E, class F, class Problem>
MILKERNELS_INLINE void add_frames(const Problem& problem, const Stretch& task,
                                  ClassVectors<F>& of) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t classes = task.class_end - task.class_start;
  constexpr int kTensors = F::kScores ? 2 : 1;
  constexpr int kLast = kTensors - 1;
  // A second large group would want registers for the sums of the first, and a chain of them would
  // be waited for.
  constexpr int64_t kMost = F::kChained || kGathered<E, F> > kGroup<T> ? 8 : 64;
  const FrameTensor of_scores = scores_or_x<F::kScores>(problem);
  std::array<int64_t, kTensors> strides{problem.x.stride_frame};
  strides[kLast] = of_scores.stride_frame;
  FramesAtOnce<kTensors, kMost> frames(problem, task, strides, come_from_far<E>(problem));
  // The processor sees some rows read in turns, and not that the next ones follow.
  const int64_t next_frames = frames.ahead();
  const int64_t next_scores = frames.ahead(kLast);
  while (frames.next()) {
    const E* x = at<E>(problem.x, task.bag, task.class_start, frames.first());
    const E* scores = at<E>(of_scores, task.bag, task.class_start, frames.first());
    for (int64_t index = 0, block = 0; index < classes; index += kStep, ++block) {
      const int64_t lanes = lanes_from(index, classes, kStep);
      const typename F::Coefficients of_block = of.coefficients[block];
      typename F::Gatherer gatherer = of.gatherers[block];
      Vector<T> raw[kGathered<E, F>];
      Vector<T> decay[kGathered<E, F>];
      Vector<T> score[kGathered<E, F>];
      int64_t taken = 0;
      const auto take = [&](auto vectors) MILKERNELS_INLINE_LAMBDA {
        constexpr int kVectors = vectors;
        MILKERNELS_UNROLL
        for (int k = 0; k < kVectors; ++k) {
          const E* x_here = x + frames.offset(taken + k) + index;
          const E* scores_here = scores + frames.offset(taken + k, kLast) + index;
          prefetch(x_here + next_frames);
          if constexpr (F::kScores) prefetch(scores_here + next_scores);
          raw[k] = load_lanes(x_here, lanes);
          score[k] = F::kScores ? load_lanes(scores_here, lanes) : raw[k];
        }
        take_decays<F, kVectors, T>(raw, decay);
        gatherer.template gather<kVectors, true>(raw, decay, score, nullptr, of_block);
      };
      in_groups<T, kGathered<E, F>>(taken, frames.count(), take);
      of.gatherers[block] = gatherer;
    }
  }
}

// A block of contiguous classes.
template <class E, class F, class Problem>
void gather_classes(const Problem& problem, int64_t segments, const Stretch& task) {
  constexpr int64_t kStep = kLanes<Arithmetic<E>>;
  const int64_t classes = task.class_end - task.class_start;
  ClassVectors<F> of;
  for (int64_t index = 0, block = 0; index < classes; index += kStep, ++block) {
    const int64_t lanes = lanes_from(index, classes, kStep);
    of.coefficients.make(block, F::coefficients(problem, task.class_start + index, lanes));
    of.gatherers.make(block, {});
  }
  add_frames<E, F>(problem, task, of);
  const int64_t cell = task.bag * problem.classes + task.class_start;
  for (int64_t index = 0, block = 0; index < classes; index += kStep, ++block)
    write_part<E, F>(problem, segments, task.segment, cell + index,
                     lanes_from(index, classes, kStep), of.gatherers[block].rows(),
                     of.coefficients[block]);
}

// Whether a frame of probabilities takes hardly more time than to be read.
template <class F>
constexpr bool kReadsAlone = F::kFewInstructions && !F::kDecays;

// How many frames of contiguous classes fill whole vectors together.
template <class T>
int64_t frames_of_whole_vectors(int64_t classes) {
  int64_t frames = kLanes<T>;
  while (frames > 1 && frames / 2 * classes % kLanes<T> == 0) frames /= 2;
  return frames;
}

// Whether the classes that fill no vector are turned: to begin and merge their rows takes as long
// as some frames, and each frame takes longer, the more of them there are.
template <class E, class F>
bool gathers_turned(const Problem& problem) {
  constexpr int64_t kStep = kLanes<Arithmetic<E>>;
  constexpr int64_t kBeginning = kReadsAlone<F> ? 24 : 3;
  constexpr int64_t kTurning = kReadsAlone<F> ? 6 : 3;
  const int64_t rest = problem.classes % kStep;
  return kTurns<E> && !problem.frames_contiguous && problem.classes > 1 &&
         leave_lanes_empty<Arithmetic<E>>(problem.classes) &&
         problem.frames * (2 * kStep - kTurning * rest) >= kBeginning * kStep * kStep * rest;
}

// Whether frames of contiguous classes, without a mask, are joined: several of them walked as one
// of as many more classes, which leaves no lane empty. To begin and merge each vector of them takes
// as long as some vectors of frames; one or two classes beside whole vectors are better turned.
template <class E, class F, class Problem>
bool are_joined(const Problem& problem) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kMostVectors = 20;
  constexpr int64_t kMerging = kReadsAlone<F> ? 100 : 24;
  const int64_t classes = problem.classes;
  if (problem.frames_contiguous || problem.mask != nullptr || classes < 2 ||
      !leave_lanes_empty<T>(classes) || problem.x.stride_frame != classes ||
      scores_or_x<F::kScores>(problem).stride_frame != classes)
    return false;
  const int64_t vectors = frames_of_whole_vectors<T>(classes) * classes / kStep;
  const int64_t rest = classes % kStep;
  const bool turned = classes > kStep && 8 * rest <= kStep && gathers_turned<E, F>(problem);
  const int64_t merging = kMerging * (turned ? 4 : 1) * vectors;
  return vectors <= kMostVectors && problem.frames * (kStep - rest) >= merging * kStep;
}

// The sums of some classes in memory.
template <class T, int kRows>
struct SumsInMemory {
  T values[kRows][kClassVectors * kLanes<T>];

  Rows<T, kRows> read(int64_t from, int64_t count) const {
    Rows<T, kRows> sums;
    for (int row = 0; row < kRows; ++row) sums.row[row] = load_lanes(values[row] + from, count);
    return sums;
  }
  void write(int64_t from, int64_t count, const Rows<T, kRows>& sums) {
    for (int row = 0; row < kRows; ++row) store_lanes(values[row] + from, sums.row[row], count);
  }
};

template <class E, class F, class Problem>
void gather_joined(const Problem& problem, int64_t segments, const Stretch& task) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t classes = problem.classes;
  const int64_t together = frames_of_whole_vectors<T>(classes);
  const RepeatedConstants<T, typename F::Coefficients> coefficients(
      classes,
      [&](int64_t first, int64_t count) { return F::coefficients(problem, first, count); });
  Problem joined = problem;
  const auto join = [&](FrameTensor& tensor) {
    tensor.data = at_mutable<E>(tensor, 0, 0, task.first);
    tensor.stride_frame *= together;
  };
  join(joined.x);
  if constexpr (F::kScores) join(joined.scores);
  joined.classes *= together;
  joined.frames /= together;
  const int64_t frames = (task.last - task.first) / together;
  ClassVectors<F> of;
  const auto begin = [&](int64_t vectors) {
    for (int64_t block = 0; block < vectors; ++block) {
      of.coefficients.make(block, coefficients.from(block * kStep % classes));
      of.gatherers.make(block, {});
    }
  };
  begin(joined.classes / kStep);
  add_frames<E, F>(joined, {task.bag, 0, joined.classes, 0, 0, frames}, of);
  SumsInMemory<T, F::kRows> sums;
  for (int64_t index = 0; index < joined.classes; index += kStep)
    sums.write(index, kStep, of.gatherers[index / kStep].rows());
  const auto merge = [&](int64_t index, int64_t count, const Rows<T, F::kRows>& others) {
    sums.write(index, count,
               F::merge(sums.read(index, count), others, coefficients.from(index % classes)));
  };
  for (int64_t half = joined.classes / 2; half >= classes; half /= 2)
    for (int64_t index = 0; index < half; index += kStep) {
      const int64_t count = lanes_from(index, half, kStep);
      merge(index, count, sums.read(half + index, count));
    }
  // Frames that are too few to be joined.
  const int64_t rest = task.first + frames * together;
  begin((classes + kStep - 1) / kStep);
  if (rest < task.last) add_frames<E, F>(problem, {task.bag, 0, classes, 0, rest, task.last}, of);
  for (int64_t index = 0, block = 0; index < classes; index += kStep, ++block) {
    const int64_t count = lanes_from(index, classes, kStep);
    if (rest < task.last) merge(index, count, of.gatherers[block].rows());
    write_part<E, F>(problem, segments, task.segment, task.bag * classes + index, count,
                     sums.read(index, count), coefficients.from(index));
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
