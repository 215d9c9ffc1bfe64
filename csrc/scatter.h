// Backward passes that are elementwise in the frames: the walk over layouts, parts of bags and
// threads, the same for every family.
//
// A family G for elements E has
//   kReadsFrames, whether its gradient depends on the frames' values; kLongChains, whether the
//     instructions of a frame are many and wait for one another;
//   Constants, of the kind in constants.h, and constants(problem, cell, count): what it reads for
//     each bag and class;
//   gradient(constants, raw): of one vector of real frames;
//   finish(problem, cell, first, last): what remains to be done once frames first to last of a bag
//     and class are written.
#pragma once

#include "frames.h"
#include "line.h"
#include "parallel.h"
#include "turn.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// The gradients of kVectors vectors of frames, for the lanes that there are. All are read before
// one is written, so that the processor may work on all of them at once.
template <class E, class G, int kVectors, class Bags, class Lanes>
MILKERNELS_INLINE void scatter_vectors(const Bags& bag_of, const E* x, E* x_gradient, bool far,
                                       const Lanes& lanes_of) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  PresentLanes<T> lanes[kVectors];
  Vector<T> raw[kVectors];
  Vector<T> gradient[kVectors];
  if (G::kReadsFrames && far) fetch_ahead<kVectors>(x);
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    lanes[k] = lanes_of(k);
    raw[k] = G::kReadsFrames ? load_lanes(x + k * kStep, lanes[k].count) : Vector<T>{};
  }
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    gradient[k] = G::gradient(bag_of(k), raw[k]);
    gradient[k] = lanes[k].real ? gradient[k] : Vector<T>{};
  }
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k)
    store_lanes(x_gradient + k * kStep, gradient[k], lanes[k].count);
}

// A row of contiguous frames, which begins at frame `origin` of a bag.
template <class E, class G, class Problem>
MILKERNELS_INLINE void scatter_row(const Problem& problem, int64_t bag, const E* x, E* x_gradient,
                                   int64_t origin, int64_t first, int64_t last,
                                   const typename G::Constants& constants) {
  using T = Arithmetic<E>;
  constexpr int kLarge = kLargeGroup<T, G::kLongChains>;
  const bool far = are_far<E>(problem);
  const auto bag_of = [&](int) MILKERNELS_INLINE_LAMBDA -> const auto& { return constants; };
  walk_row<T, kLarge>(
      problem, mask_row(problem, bag), first, last,
      [&](auto vectors, auto, int64_t frame, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        const int64_t index = frame - origin;
        scatter_vectors<E, G, vectors>(bag_of, x + index, x_gradient + index, far, lanes_of);
      },
      [&](int64_t frame) { clear_group(x_gradient + frame - origin); });
}

// Up to a vector of classes, each a row of contiguous frames.
template <class E, class G, class Problem>
void scatter_rows(const Problem& problem, const Stretch& task) {
  const int64_t count = task.class_end - task.class_start;
  const int64_t cell = task.bag * problem.classes + task.class_start;
  const auto constants = G::constants(problem, cell, count);
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t index = task.class_start + lane;
    scatter_row<E, G>(problem, task.bag, at<E>(problem.x, task.bag, index, 0),
                      at_mutable<E>(problem.x_gradient, task.bag, index, 0), 0, task.first,
                      task.last, spread(constants, lane));
  }
}

// A line of values, with the constants of its rows or classes.
template <class E, class G, class Constants>
void scatter_line(Constants constants, const E* x, E* x_gradient, int64_t count, bool far) {
  using T = Arithmetic<E>;
  walk_classes<T, kLargeGroup<T, G::kLongChains>>(
      count, [&](auto vectors, auto, int64_t index, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        const auto bag_of = constants.template next<vectors>(index);
        scatter_vectors<E, G, vectors>(bag_of, x + index, x_gradient + index, far, lanes_of);
      });
}

// A task that is one.
template <class E, class G, class Problem>
void scatter_line(const Problem& problem, const Stretch& task) {
  const int64_t classes = task.class_end - task.class_start;
  const auto constants = [&](int64_t first, int64_t count) {
    return G::constants(problem, task.bag * problem.classes + task.class_start + first, count);
  };
  const E* x = at<E>(problem.x, task.bag, task.class_start, task.first);
  E* x_gradient = at_mutable<E>(problem.x_gradient, task.bag, task.class_start, task.first);
  const int64_t count = classes * (task.last - task.first);
  const bool far = are_far<E>(problem);
  using Constants = typename G::Constants;
  if constexpr (kLinesOfRows<E>)
    if (problem.frames_contiguous) {
      const ConstantsOfRows<Constants> of_rows(problem.frames, constants(0, classes));
      return scatter_line<E, G>(of_rows, x, x_gradient, count, far);
    }
  with_constants_of_classes<E>(classes, constants, [&](const auto& of_classes) {
    scatter_line<E, G>(of_classes, x, x_gradient, count, far);
  });
}

// Few contiguous classes, a block of frames after the other as such rows.
template <class E, class G, class Problem>
void scatter_turned(const Problem& problem, const Stretch& task) {
  const auto constants = G::constants(problem, task.bag * problem.classes, problem.classes);
  Block<E> x;
  Block<E> x_gradient;
  for_blocks(task.first, task.last, [&](int64_t first, int64_t last) {
    if constexpr (G::kReadsFrames) turn(problem, problem.x, task.bag, first, last, x);
    for (int64_t lane = 0; lane < problem.classes; ++lane)
      scatter_row<E, G>(problem, task.bag, x.row(lane), x_gradient.row(lane), first, first, last,
                        spread(constants, lane));
    turn_back(problem, x_gradient, task.bag, first, last, problem.x_gradient);
  });
}

// A block of contiguous classes.
template <class E, class G, class Problem>
void scatter_classes(const Problem& problem, const Stretch& task) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, task.bag);
  const int64_t classes = task.class_end - task.class_start;
  const int64_t cell = task.bag * problem.classes + task.class_start;
  const int64_t whole = classes / kStep;
  const int64_t rest = classes % kStep;
  const bool far = are_far<E>(problem);
  typename G::Constants constants[kClassVectors] = {};
  for (int64_t block = 0; block * kStep < classes; ++block)
    constants[block] = G::constants(problem, cell + block * kStep, block < whole ? kStep : rest);
  for (int64_t frame = task.first; frame < task.last; ++frame) {
    const E* x = at<E>(problem.x, task.bag, task.class_start, frame);
    E* x_gradient = at_mutable<E>(problem.x_gradient, task.bag, task.class_start, frame);
    if (mask != nullptr && !mask[frame * problem.mask_stride_frame]) {
      std::memset(x_gradient, 0, static_cast<size_t>(classes) * sizeof(E));
      continue;
    }
    walk_classes<T, kLargeGroup<T, G::kLongChains>>(
        classes,
        [&](auto vectors, auto, int64_t index, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
          const auto bag_of = [&](int k) MILKERNELS_INLINE_LAMBDA -> const auto& {
            return constants[index / kStep + k];
          };
          scatter_vectors<E, G, vectors>(bag_of, x + index, x_gradient + index, far, lanes_of);
        });
  }
}

template <class E, class G, class Problem>
void scatter_task(const Problem& problem, const Stretch& task) {
  if constexpr (kLinesOfClasses<E>)
    if ((kLinesOfRows<E> &&
         are_lines(problem, kLongestInLine<G::kLongChains>, problem.x, problem.x_gradient)) ||
        are_lines_of_classes(problem, problem.x, problem.x_gradient))
      return scatter_line<E, G>(problem, task);
  if constexpr (kTurns<E>)
    if (is_turned<E, false>(problem)) return scatter_turned<E, G>(problem, task);
  if (problem.frames_contiguous)
    scatter_rows<E, G>(problem, task);
  else
    scatter_classes<E, G>(problem, task);
}

template <class E, class G, class Problem>
void scatter(const Problem& problem) {
  const Stretches stretches(problem, parts_of(problem), kLanes<Arithmetic<E>>);
  parallel_for(stretches.count(), elements_of(problem), problem.threads, [&](int64_t task) {
    const Stretch stretch = stretches.at(task);
    scatter_task<E, G>(problem, stretch);
    const int64_t cell = stretch.bag * problem.classes;
    for (int64_t index = stretch.class_start; index < stretch.class_end; ++index)
      G::finish(problem, cell + index, stretch.first, stretch.last);
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
