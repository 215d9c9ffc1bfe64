// Short rows of contiguous frames that lie one behind the other are one line: its vectors cross
// from row to row, and none is half empty but the last.
#pragma once

#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// With shorter vectors it gains nothing.
template <class E>
constexpr bool kLines = std::is_same_v<E, float> && kLanes<float> >= 16;

// The row of each lane of a line's vectors, of up to 2^16 frames.
class RowsOfLanes {
 public:
  explicit RowsOfLanes(int64_t frames) : inverse_(broadcast(1.0f / static_cast<float>(frames))) {}

  // A half keeps every quotient further from a whole number than its rounding.
  MILKERNELS_INLINE Integer<float> operator()(int64_t index) const {
    const Vector<float> lanes =
        __builtin_convertvector(lane_numbers<float>(), Vector<float>) + 0.5f;
    const Vector<float> frames = lanes + static_cast<float>(index);
    return __builtin_convertvector(frames * inverse_, Integer<float>);
  }

 private:
  Vector<float> inverse_;
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

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
