// Short rows of contiguous frames, or frames of few contiguous classes, that lie one behind the
// other are one line: its vectors cross from one to the next, and none is half empty but the last.
#pragma once

#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// With shorter vectors it gains nothing.
template <class E>
constexpr bool kLines = std::is_same_v<E, float> && kLanes<float> >= 16;

// The row of each lane of a line's k-th vector from an index on, of up to 2^16 frames.
class RowsOfLanes {
 public:
  explicit RowsOfLanes(int64_t frames) : inverse_(broadcast(1.0f / static_cast<float>(frames))) {}

  // A half keeps every quotient further from a whole number than its rounding.
  MILKERNELS_INLINE Integer<float> operator()(int64_t index, int k) const {
    const Vector<float> lanes =
        __builtin_convertvector(lane_numbers<float>(), Vector<float>) + 0.5f;
    const Vector<float> frames = lanes + static_cast<float>(index + k * kLanes<float>);
    return __builtin_convertvector(frames * inverse_, Integer<float>);
  }

 private:
  Vector<float> inverse_;
};

// The class of each lane, where few classes are contiguous.
class ClassesOfLanes {
 public:
  explicit ClassesOfLanes(int64_t classes) : classes_(classes), frames_(classes) {}

  // Only the index is divided, once for all vectors of a group.
  MILKERNELS_INLINE Integer<float> operator()(int64_t index, int k) const {
    const auto first = static_cast<int32_t>(index % classes_);
    const Integer<float> frames = frames_(first, k) * static_cast<int32_t>(classes_);
    return lane_numbers<float>() + (first + k * kLanes<float>)-frames;
  }

 private:
  int64_t classes_;
  RowsOfLanes frames_;
};

// Frames of the longest rows that make a line, where a frame takes much time beside what is chosen
// for it of its row's constants, and where it does not.
template <bool kMuch>
constexpr int64_t kLongestInLine = kMuch ? kShortRow : kShortRow / 4;

// Whether rows without a mask are a line, in two tensors.
inline bool are_lines(const Problem& problem, int64_t longest, const FrameTensor& frames,
                      const FrameTensor& gradients) {
  return problem.frames_contiguous && problem.mask == nullptr && problem.frames <= longest &&
         frames.stride_class == problem.frames && gradients.stride_class == problem.frames;
}

// Whether frames of few contiguous classes, without a mask, are a line in two tensors.
inline bool are_lines_of_classes(const Problem& problem, const FrameTensor& frames,
                                 const FrameTensor& gradients) {
  return !problem.frames_contiguous && problem.mask == nullptr && problem.classes > 1 &&
         4 * problem.classes <= 3 * kLanes<float> && frames.stride_frame == problem.classes &&
         gradients.stride_frame == problem.classes;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
