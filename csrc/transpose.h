// Short rows of contiguous frames, transposed a vector of classes at a time and then walked as
// contiguous classes are: nothing is left over at the end of each row, and no lanes are merged.
#pragma once

#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class E>
constexpr bool kTransposes = std::is_same_v<E, float> && kLanes<float> >= 8;

// Frames of the longest rows that are transposed, half as many where a frame takes few
// instructions: it would wait for its transposition. Longer vectors save more of what is done once
// for each row.
template <bool kFewInstructions>
constexpr int64_t kLongestTransposed = kShortRow * kLanes<float> / 16 / (kFewInstructions ? 2 : 1);

// Whether so many rows are worth a vector of classes.
template <class E>
bool fills_lanes(int64_t classes) {
  return 2 * classes >= kLanes<Arithmetic<E>>;
}

template <class E>
bool is_transposed(const Problem& problem, int64_t longest) {
  return problem.frames_contiguous && problem.frames <= longest && fills_lanes<E>(problem.classes);
}

// One vector of each row to one vector of each frame. Rows past the last are the last again.
template <class E>
MILKERNELS_INLINE void transpose_block(const E* from, const int64_t* row_starts, int64_t frames,
                                       int64_t next, E* to) {
  constexpr int kStep = kLanes<E>;
  Vector<E> block[kStep];
  MILKERNELS_UNROLL
  for (int lane = 0; lane < kStep; ++lane) {
    prefetch(from + row_starts[lane] + next);
    block[lane] = load_lanes(from + row_starts[lane], frames);
  }
  transpose<E>(block);
  MILKERNELS_UNROLL
  for (int k = 0; k < kStep; ++k) store(to + k * kStep, block[k]);
}

// A task's rows with their classes contiguous, written to `to`; `next` values on are those that are
// fetched meanwhile.
template <class E>
FrameTensor transpose_rows(const FrameTensor& from, const Stretch& task, int64_t next, E* to) {
  constexpr int64_t kStep = kLanes<E>;
  const E* rows = at<E>(from, task.bag, task.class_start, task.first);
  const int64_t last_row = task.class_end - task.class_start - 1;
  const int64_t frames = task.last - task.first;
  int64_t row_starts[kStep];
  for (int64_t lane = 0; lane < kStep; ++lane)
    row_starts[lane] = (lane < last_row ? lane : last_row) * from.stride_class;
  int64_t frame = 0;
  for (; frame + kStep <= frames; frame += kStep)
    transpose_block(rows + frame, row_starts, kStep, next, to + frame * kStep);
  if (frame < frames)
    transpose_block(rows + frame, row_starts, frames - frame, next, to + frame * kStep);
  return {to, 0, 1, kStep};
}

// The same of rows that are walked whole: the next vector of them is fetched.
template <class E>
FrameTensor transpose_rows(const FrameTensor& from, const Stretch& task, E* to) {
  return transpose_rows<E>(from, task, kLanes<E> * from.stride_class, to);
}

// And back: the rows of a task from their values with the classes contiguous. Rows a vector of
// classes on are fetched meanwhile: no processor guesses what is written next.
template <class E>
void transpose_rows_back(const E* from, const Stretch& task, const FrameTensor& to) {
  constexpr int kStep = kLanes<E>;
  E* rows = at_mutable<E>(to, task.bag, task.class_start, task.first);
  const int64_t last_row = task.class_end - task.class_start - 1;
  const int64_t frames = task.last - task.first;
  for (int64_t frame = 0; frame < frames; frame += kStep) {
    const int64_t count = frames - frame < kStep ? frames - frame : kStep;
    Vector<E> block[kStep];
    MILKERNELS_UNROLL
    for (int k = 0; k < kStep; ++k) block[k] = load(from + (frame + k) * kStep);
    transpose<E>(block);
    MILKERNELS_UNROLL
    for (int lane = 0; lane < kStep; ++lane) {
      if (lane > last_row) break;
      E* row = rows + lane * to.stride_class + frame;
      prefetch_to_write(row + kStep * to.stride_class);
      store_lanes(row, block[lane], count);
    }
  }
}

// Moves a task's real frames together, each a vector. Returns how many there are.
template <class E>
int64_t keep_real(const Problem& problem, const Stretch& task, E* frames) {
  constexpr int64_t kStep = kLanes<E>;
  const uint8_t* mask = mask_row(problem, task.bag);
  if (mask == nullptr) return task.last - task.first;
  int64_t real = 0;
  for (int64_t frame = 0; frame < task.last - task.first; ++frame) {
    store(frames + real * kStep, load(frames + frame * kStep));
    real += mask[(task.first + frame) * problem.mask_stride_frame] != 0;
  }
  return real;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
