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
  // Whether bag values and their gradients are in the arithmetic type, and not in x's.
  bool exact_bags = false;
  int threads = 1;
  // Elements of the problem that this is a part of; 0 if it is none.
  int64_t whole_elements = 0;
  // (bags, frames), not 0 for a real frame; null when all are.
  const uint8_t* mask = nullptr;
  int64_t mask_stride_bag = 0;
  int64_t mask_stride_frame = 0;
};

// Rows of the statistics (rows, bags, classes), in the arithmetic type.
enum StatisticsRow : int { kPeak, kTotal, kAverage };

// Rows of a part's sums in scratch memory.
constexpr int kMomentRows = 6;

// Frames and elements that one task of a forward pass walks through, at most: fixed, so that
// results do not depend on the number of threads.
constexpr int64_t kSegmentFrames = 16384;
constexpr int64_t kSegmentElements = 262144;

// Frames up to which a forward pass may read rows transposed: a vector of them, and of their
// scores, is half of a processor's first cache.
constexpr int64_t kShortRow = 256;

struct AverageProblem : Problem {
  Member member = Member::kMean;
  Activation activation = Activation::kNone;
  FrameTensor x;
  FrameTensor scores;
  // (classes,) in the arithmetic type, null for the constant 1.
  const void* power = nullptr;
  const void* alpha = nullptr;
  void* statistics = nullptr;
  // Forward: the bag values (bags, classes).
  void* y = nullptr;
  // Backward: the bag values' gradient (bags, classes), and what to fill.
  const void* gradient = nullptr;
  FrameTensor x_gradient;
  FrameTensor scores_gradient;
  void* power_gradient = nullptr;
  void* alpha_gradient = nullptr;
  // Whether the forward pass may leave exp(-|x|) of logits where x's gradient is to be, and the
  // backward pass then takes it from there. Of contiguous frames in float32 alone.
  bool keeps_decays = false;
  // forward_scratch or backward_scratch values in the arithmetic type.
  void* scratch = nullptr;
};

struct MaximumProblem : Problem {
  bool plus_mean = false;
  FrameTensor x;
  void* y = nullptr;
  // (bags, classes): each maximum's frame, -1 for a bag without a real one.
  int64_t* index = nullptr;
  // (bags, classes): real frames of each bag, if the mean is added.
  int64_t* count = nullptr;
  // (bags, classes), in the arithmetic type: each maximum's derivative by its logit, which the
  // forward pass leaves there; null if the backward pass computes it again.
  void* slopes = nullptr;
  const void* gradient = nullptr;
  FrameTensor x_gradient;
};

// A pooling whose sums gather.h gathers: x and y or their gradients, and what the forward pass
// leaves.
struct GatheredProblem : Problem {
  FrameTensor x;
  void* statistics = nullptr;
  void* y = nullptr;
  const void* gradient = nullptr;
  FrameTensor x_gradient;
  // gathered_scratch values in the arithmetic type.
  void* scratch = nullptr;
};

// Rows of noisy-or's statistics: Π (1 - x_i) over the frames that are not 1 is factor · 2^exponent,
// the factor 0 where several are; and how many are 1.
enum NoisyOrRow : int { kFactor, kExponent, kOnes };
constexpr int kNoisyOrRows = 4;

struct NoisyOrProblem : GatheredProblem {};

constexpr int kLogMeanExpRows = 8;

struct LogMeanExpProblem : GatheredProblem {
  // Whether the statistics hold dy / d sharpness, too.
  bool learn = false;
  // (classes,) in the arithmetic type.
  const void* sharpness = nullptr;
  void* sharpness_gradient = nullptr;
};

// Statistics pooling: weighted mean and deviation of the channels of each head. A problem's classes
// are the embedding's channels; each head has classes / heads of them, side by side.
struct StatisticsProblem : Problem {
  int64_t heads = 1;
  // Floor of the variance.
  double eps = 0;
  FrameTensor h;
  // (classes,) in the arithmetic type: a frame's score is its scalar product with its head's part.
  // Null where the scores (bags, heads, frames) are given.
  const void* query = nullptr;
  FrameTensor scores;
  // (2, bags, heads): peak and total. (3, bags, classes): mean, what rounding took off it,
  // variance.
  void* normaliser = nullptr;
  void* moments = nullptr;
  // Forward: (bags, 2 · classes), each head's means before its deviations.
  void* y = nullptr;
  // Backward: y's gradient and what to fill, null where nothing asks for it.
  const void* gradient = nullptr;
  FrameTensor h_gradient;
  FrameTensor scores_gradient;
  void* query_gradient = nullptr;
  // statistics_forward_scratch or statistics_backward_scratch values in the arithmetic type.
  void* scratch = nullptr;
};

// The gate of gated fusion, elementwise: y = sigmoid(gate) c. Every tensor is contiguous.
struct GatedFusionProblem {
  int64_t elements = 0;
  int threads = 1;
  const void* c = nullptr;
  const void* gate = nullptr;
  void* y = nullptr;
  // Backward: y's gradient and what to fill, null where nothing asks for it.
  const void* gradient = nullptr;
  void* c_gradient = nullptr;
  void* gate_gradient = nullptr;
};

// Rows of L values pooled by two linear layers; everything but z, y and their gradients is in the
// arithmetic type.
struct LinearAttentionProblem {
  int64_t rows = 0;
  int64_t width = 0;
  // The sigmoid on the class branch, as in the authors' program, and not on the attention branch.
  bool as_in_code = false;
  int threads = 1;
  // Rows, each contiguous.
  const void* z = nullptr;
  int64_t stride_row = 0;
  // (width, width) and (width,), contiguous.
  const void* attention_weight = nullptr;
  const void* attention_bias = nullptr;
  const void* class_weight = nullptr;
  const void* class_bias = nullptr;
  // (rows,): the pooled values and their gradient.
  void* y = nullptr;
  const void* gradient = nullptr;
  // Three rows of (rows,): peak, total, average.
  void* statistics = nullptr;
  // Backward: what to fill, contiguous; z's may be null, and the others together.
  void* z_gradient = nullptr;
  void* attention_weight_gradient = nullptr;
  void* attention_bias_gradient = nullptr;
  void* class_weight_gradient = nullptr;
  void* class_bias_gradient = nullptr;

  // In elements that a pass over memory would take as long for.
  int64_t work() const { return rows * width * (1 + width / 16); }
};

// Attention whose scores are normalised over the classes.
struct ClassAttentionProblem : Problem {
  Activation activation = Activation::kNone;
  FrameTensor x;
  FrameTensor scores;
  // Rows of (bags, classes) in the arithmetic type: the sum of weights, the average.
  void* statistics = nullptr;
  void* y = nullptr;
  const void* gradient = nullptr;
  // Those wanted.
  FrameTensor x_gradient;
  FrameTensor scores_gradient;
};

// Weights are powers of `decay`, by rank.
struct RankProblem : Problem {
  double decay = 1;
  FrameTensor x;
  // (bags, classes): the bag values, and the sum of weights in the arithmetic type.
  void* y = nullptr;
  void* total = nullptr;
  // Rank of each frame, -1 for one that weighs nothing: 32-bit integers, or 16-bit ones. Null if
  // they are not wanted.
  FrameTensor ranks;
  bool wide_ranks = false;
  const void* gradient = nullptr;
  FrameTensor x_gradient;
};

// Internal to each file that includes this: a copy compiled for one instruction set must not serve
// another.
static inline int64_t elements_of(const Problem& problem) {
  return problem.bags * problem.classes * problem.frames;
}

static inline int64_t segments_of(const Problem& problem) {
  int64_t frames = kSegmentFrames;
  if (!problem.frames_contiguous && problem.classes * frames > kSegmentElements)
    frames = kSegmentElements / problem.classes > 0 ? kSegmentElements / problem.classes : 1;
  return problem.frames > frames ? (problem.frames + frames - 1) / frames : 1;
}

// Frames of a backward task: enough elements to be worth handing out, and not so many that a lane's
// sum over them is inexact.
static inline int64_t frames_of_task(const Problem& problem) {
  constexpr int64_t kTaskElements = 131072;
  constexpr int64_t kRowFrames = 32768;
  constexpr int64_t kClassFrames = 2048;
  if (problem.frames_contiguous) return kRowFrames;
  const int64_t frames = kTaskElements / (problem.classes > 0 ? problem.classes : 1);
  return frames < 1 ? 1 : frames < kClassFrames ? frames : kClassFrames;
}

static inline int64_t parts_of(const Problem& problem) {
  const int64_t frames = frames_of_task(problem);
  return problem.frames > frames ? (problem.frames + frames - 1) / frames : 1;
}

// Values of scratch that a pass needs: the sums of each segment, forward; each part's share of two
// parameters' gradients, backward.
static inline int64_t gathered_scratch(const Problem& problem, int rows) {
  const int64_t segments = segments_of(problem);
  return segments > 1 ? segments * rows * problem.bags * problem.classes : 0;
}
static inline int64_t forward_scratch(const Problem& problem) {
  return gathered_scratch(problem, kMomentRows);
}
static inline int64_t backward_scratch(const Problem& problem) {
  return 2 * parts_of(problem) * problem.bags * problem.classes;
}

// Frames of a task of statistics pooling: about as many elements as asked, in whole blocks.
static inline int64_t statistics_frames_of_task(const StatisticsProblem& problem,
                                                int64_t elements) {
  constexpr int64_t kBlockFrames = 128;
  const int64_t heads = problem.frames_contiguous && problem.heads > 0 ? problem.heads : 1;
  const int64_t width = problem.classes / heads;
  const int64_t blocks = elements / kBlockFrames / (width > 0 ? width : 1);
  return kBlockFrames * (blocks > 0 ? blocks : 1);
}
static inline int64_t statistics_segment_frames(const StatisticsProblem& problem) {
  return statistics_frames_of_task(problem, 262144);
}
static inline int64_t statistics_part_frames(const StatisticsProblem& problem) {
  return statistics_frames_of_task(problem, 65536);
}
static inline int64_t tasks_of(int64_t frames, int64_t frames_of_task) {
  return frames > frames_of_task ? (frames + frames_of_task - 1) / frames_of_task : 1;
}

// Values of scratch: each segment's state, forward; each part's share of the query's gradient,
// backward.
static inline int64_t statistics_forward_scratch(const StatisticsProblem& problem) {
  const int64_t segments = tasks_of(problem.frames, statistics_segment_frames(problem));
  return segments > 1 ? segments * problem.bags * (2 * problem.heads + 3 * problem.classes) : 0;
}
static inline int64_t statistics_backward_scratch(const StatisticsProblem& problem) {
  const int64_t parts = tasks_of(problem.frames, statistics_part_frames(problem));
  return problem.query_gradient == nullptr ? 0 : parts * problem.bags * problem.classes;
}

}  // namespace milkernels
