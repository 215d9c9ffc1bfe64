// What a kernel is called with: plain pointers, sizes and strides, in elements.
#pragma once

#include <cstdint>
#include <type_traits>

namespace milkernels {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Arithmetic is in float32, and in float64 for float64.
template <class Element>
using Arithmetic = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// The members of the family that weighs by exp(alpha x + power log x + score).
enum class Member : int { kMean, kLinear, kExponential, kPower, kPowerExponential, kAttention };
enum class Activation : int { kNone, kSigmoid, kTanh, kClamp };

// A (bags, classes, frames) tensor, contiguous along classes or along frames.
struct FrameTensor {
  void* data = nullptr;
  int64_t stride_bag = 0;
  int64_t stride_class = 0;
  int64_t stride_frame = 0;
};

struct Problem {
  int64_t bags = 0;
  int64_t classes = 0;
  int64_t frames = 0;
  bool frames_contiguous = true;
  bool from_logits = false;
  int threads = 1;
  // (bags, frames), not 0 for a real frame; null when all are.
  const uint8_t* mask = nullptr;
  int64_t mask_stride_bag = 0;
  int64_t mask_stride_frame = 0;
};

// Rows of the statistics (rows, bags, classes), in the arithmetic type; alpha's covariance with the
// bag value and then power's follow for the parameters that learn.
enum StatisticsRow : int { kPeak, kInverseTotal, kAverage, kCovariances };

// Frames that one task of a forward pass walks through: fixed, so that results do not depend on the
// number of threads.
constexpr int64_t kSegmentFrames = 16384;

struct AverageProblem : Problem {
  Member member = Member::kMean;
  Activation activation = Activation::kNone;
  bool learn = false;
  FrameTensor x;
  FrameTensor scores;
  // (classes,) in the arithmetic type, null for the constant 1.
  const void* power = nullptr;
  const void* alpha = nullptr;
  void* statistics = nullptr;
  // Forward: the bag values (bags, classes); with more than one segment, (segments, 8, bags,
  // classes) of scratch.
  void* y = nullptr;
  void* partial = nullptr;
  // Backward: the bag values' gradient (bags, classes), and what to fill.
  const void* gradient = nullptr;
  FrameTensor x_gradient;
  FrameTensor scores_gradient;
  void* power_gradient = nullptr;
  void* alpha_gradient = nullptr;
};

struct MaximumProblem : Problem {
  FrameTensor x;
  void* y = nullptr;
  // (bags, classes): each maximum's frame, -1 for a bag without a real one.
  int64_t* index = nullptr;
  const void* gradient = nullptr;
  FrameTensor x_gradient;
};

// The kernels for one instruction set and element type.
struct Kernels {
  void (*average_forward)(const AverageProblem&);
  void (*average_backward)(const AverageProblem&);
  void (*maximum_forward)(const MaximumProblem&);
  void (*maximum_backward)(const MaximumProblem&);
};

inline int64_t segments_of(int64_t frames) {
  return frames > kSegmentFrames ? (frames + kSegmentFrames - 1) / kSegmentFrames : 1;
}

}  // namespace milkernels
