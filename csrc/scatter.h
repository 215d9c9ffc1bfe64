// Backward passes that are elementwise in the frames: the walk over layouts, parts of bags and
// threads, the same for every family.
//
// A family G for elements E has
//   kReadsFrames, whether its gradient depends on the frames' values;
//   Constants, and constants(problem, cell, count): what it reads for each bag and class;
//   spread(constants): the first lane's in every lane;
//   gradient(constants, raw): of one vector of real frames;
//   finish(problem, cell, first, last): what remains to be done once frames first to last of a bag
//     and class are written.
#pragma once

#include "frames.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class E, class G, class Problem>
void scatter_frames(const Problem& problem, int64_t cell, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t bag = cell / problem.classes;
  const auto constants = G::spread(G::constants(problem, cell, 1));
  const E* x = at<E>(problem.x, bag, cell % problem.classes, 0);
  E* x_gradient = at_mutable<E>(problem.x_gradient, bag, cell % problem.classes, 0);
  const uint8_t* mask = mask_row(problem, bag);
  for (int64_t frame = first; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    const Integer<T> real = real_lanes<T>(problem, mask, frame, count);
    Vector<T> raw{};
    if constexpr (G::kReadsFrames) raw = load_lanes(x + frame, count);
    const Vector<T> gradient = G::gradient(constants, raw);
    store_lanes(x_gradient + frame, real ? gradient : Vector<T>{}, count);
  }
  G::finish(problem, cell, first, last);
}

template <class E, class G, class Problem>
void scatter_blocks(const Problem& problem, int64_t bag, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kBlock = kClassVectors * kStep;
  const uint8_t* mask = mask_row(problem, bag);
  const int64_t cell = bag * problem.classes;
  for (int64_t start = 0; start < problem.classes; start += kBlock) {
    const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
    typename G::Constants constants[kClassVectors];
    for (int64_t index = start, block = 0; index < end; index += kStep, ++block)
      constants[block] =
          G::constants(problem, cell + index, end - index < kStep ? end - index : kStep);
    for (int64_t frame = first; frame < last; ++frame) {
      const bool real = mask == nullptr || mask[frame * problem.mask_stride_frame];
      const E* x = at<E>(problem.x, bag, 0, frame);
      E* x_gradient = at_mutable<E>(problem.x_gradient, bag, 0, frame);
      for (int64_t index = start, block = 0; index < end; index += kStep, ++block) {
        const int64_t count = end - index < kStep ? end - index : kStep;
        Vector<T> gradient{};
        if (real) {
          Vector<T> raw{};
          if constexpr (G::kReadsFrames) raw = load_lanes(x + index, count);
          gradient = G::gradient(constants[block], raw);
        }
        store_lanes(x_gradient + index, gradient, count);
      }
    }
  }
  for (int64_t index = 0; index < problem.classes; ++index)
    G::finish(problem, cell + index, first, last);
}

template <class E, class G, class Problem>
void scatter(const Problem& problem) {
  const int64_t frames = frames_of_task(problem);
  const int64_t parts = parts_of(problem);
  const int64_t rows = problem.frames_contiguous ? problem.bags * problem.classes : problem.bags;
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(rows * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t first = task % parts * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    if (problem.frames_contiguous)
      scatter_frames<E, G>(problem, task / parts, first, last);
    else
      scatter_blocks<E, G>(problem, task / parts, first, last);
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
