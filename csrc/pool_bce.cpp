#include "pool_bce.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.h"
#include "slice.h"

namespace milkernels {
namespace {

// Bytes of frames that stay in a core's cache beside their gradients.
constexpr int64_t kCacheBytes = 512 * 1024;

// So many tasks are enough for any number of threads, and so many elements for a task.
constexpr int64_t kTasks = 64;
constexpr int64_t kFewestElements = 8192;

// A block of classes is whole cache lines where they lie side by side.
constexpr int64_t kLineClasses = 64;

// Memory that lives as long as a task.
class Memory {
 public:
  void* take(int64_t bytes) {
    blocks_.emplace_back(new double[static_cast<size_t>(bytes) / sizeof(double) + 1]);
    return blocks_.back().get();
  }

 private:
  std::vector<std::unique_ptr<double[]>> blocks_;
};

int64_t cells_of(const Problem& problem) { return problem.bags * problem.classes; }

// What differs between the families: their kernels, what a task's passes work in, where its learned
// parameters' gradients are, and how many frame tensors it reads.

void run(const Kernels& kernels, const AverageProblem& part, bool backward) {
  (backward ? kernels.average_backward : kernels.average_forward)(part);
}
void run(const Kernels& kernels, const MaximumProblem& part, bool backward) {
  (backward ? kernels.maximum_backward : kernels.maximum_forward)(part);
}
void run(const Kernels& kernels, const NoisyOrProblem& part, bool backward) {
  (backward ? kernels.noisy_or_backward : kernels.noisy_or_forward)(part);
}
void run(const Kernels& kernels, const LogMeanExpProblem& part, bool backward) {
  (backward ? kernels.log_mean_exp_backward : kernels.log_mean_exp_forward)(part);
}
void run(const Kernels& kernels, const ClassAttentionProblem& part, bool backward) {
  (backward ? kernels.class_attention_backward : kernels.class_attention_forward)(part);
}
void run(const Kernels& kernels, const RankProblem& part, bool backward) {
  (backward ? kernels.rank_backward : kernels.rank_forward)(part);
}

void give_memory(AverageProblem& part, bool learns, const Bytes& bytes, Memory& memory) {
  part.statistics = memory.take((kAverage + 1) * cells_of(part) * bytes.arithmetic);
  const int64_t scratch = std::max(forward_scratch(part), learns ? backward_scratch(part) : 0);
  part.scratch = memory.take(scratch * bytes.arithmetic);
}
void give_memory(MaximumProblem& part, bool, const Bytes&, Memory& memory) {
  part.index = static_cast<int64_t*>(memory.take(cells_of(part) * sizeof(int64_t)));
}
void give_memory(NoisyOrProblem& part, bool, const Bytes& bytes, Memory& memory) {
  part.statistics = memory.take((kOnes + 1) * cells_of(part) * bytes.arithmetic);
  part.scratch = memory.take(gathered_scratch(part, kNoisyOrRows) * bytes.arithmetic);
}
void give_memory(LogMeanExpProblem& part, bool learns, const Bytes& bytes, Memory& memory) {
  part.learn = learns;
  part.statistics = memory.take((2 + learns) * cells_of(part) * bytes.arithmetic);
  part.scratch = memory.take(gathered_scratch(part, kLogMeanExpRows) * bytes.arithmetic);
}
void give_memory(ClassAttentionProblem& part, bool, const Bytes& bytes, Memory& memory) {
  part.statistics = memory.take(2 * cells_of(part) * bytes.arithmetic);
}
void give_memory(RankProblem& part, bool, const Bytes& bytes, Memory& memory) {
  part.total = memory.take(cells_of(part) * bytes.arithmetic);
  if (part.x_gradient.data == nullptr) return;
  const bool by_frame = part.frames_contiguous;
  part.wide_ranks = part.frames > INT16_MAX;
  part.ranks = {memory.take(cells_of(part) * part.frames * (part.wide_ranks ? 4 : 2)),
                part.classes * part.frames, by_frame ? part.frames : 1,
                by_frame ? 1 : part.classes};
}

// The slice's cells of values (bags, classes).
template <class V>
V* cells_at(V* values, const Problem& problem, const Slice& slice, int64_t value_bytes) {
  if (values == nullptr) return nullptr;
  using Byte = std::conditional_t<std::is_const_v<V>, const char, char>;
  const int64_t cell = slice.bags.first * problem.classes + slice.classes.first;
  return reinterpret_cast<V*>(reinterpret_cast<Byte*>(values) + cell * value_bytes);
}

bool learns(const Problem&) { return false; }
bool learns(const AverageProblem& problem) {
  return problem.power_gradient != nullptr || problem.alpha_gradient != nullptr;
}
bool learns(const LogMeanExpProblem& problem) { return problem.sharpness_gradient != nullptr; }

void give_learned(Problem&, const Problem&, const Slice&, const Bytes&) {}
void give_learned(AverageProblem& part, const AverageProblem& problem, const Slice& slice,
                  const Bytes& bytes) {
  part.power_gradient = cells_at(problem.power_gradient, problem, slice, bytes.arithmetic);
  part.alpha_gradient = cells_at(problem.alpha_gradient, problem, slice, bytes.arithmetic);
}
void give_learned(LogMeanExpProblem& part, const LogMeanExpProblem& problem, const Slice& slice,
                  const Bytes& bytes) {
  part.sharpness_gradient = cells_at(problem.sharpness_gradient, problem, slice, bytes.arithmetic);
}

FrameTensor scores_gradient_of(const Problem&) { return {}; }
FrameTensor scores_gradient_of(const AverageProblem& problem) { return problem.scores_gradient; }
FrameTensor scores_gradient_of(const ClassAttentionProblem& problem) {
  return problem.scores_gradient;
}

int64_t tensors_of(const Problem&) { return 1; }
int64_t tensors_of(const AverageProblem& problem) { return problem.scores.data ? 2 : 1; }
int64_t tensors_of(const ClassAttentionProblem&) { return 2; }

bool mixes_classes(const Problem&) { return false; }
bool mixes_classes(const ClassAttentionProblem&) { return true; }

// 1 - y where the statistics tell more of it than y does; negative where a frame is 1. Where it is
// not the gradient will be that of -log(1 - y), and 1 - y leaves the statistics: both may
// underflow.
template <class T>
void complements(const NoisyOrProblem& part, T* result) {
  T* statistics = static_cast<T*>(part.statistics);
  const int64_t cells = cells_of(part);
  for (int64_t cell = 0; cell < cells; ++cell) {
    T& factor = statistics[kFactor * cells + cell];
    T& exponent = statistics[kExponent * cells + cell];
    const double product =
        std::ldexp(static_cast<double>(factor), static_cast<int>(std::max(T(-4000), exponent)));
    const bool is_1 = statistics[kOnes * cells + cell] > 0;
    result[cell] = is_1 ? T(-1) : static_cast<T>(product);
    if (is_1 || factor < 0) continue;
    factor = std::isnan(factor) ? factor : T(1);
    exponent = 0;
  }
}
const void* complement_of(const Problem&, const Bytes&, Memory&) { return nullptr; }
const void* complement_of(const NoisyOrProblem& part, const Bytes& bytes, Memory& memory) {
  void* result = memory.take(cells_of(part) * bytes.arithmetic);
  bytes.arithmetic == 8 ? complements(part, static_cast<double*>(result))
                        : complements(part, static_cast<float*>(result));
  return result;
}

// The maximum's logit stands for it: its sigmoid would be rounded. An empty bag has the lowest one.
template <class T>
void lower_empty(const MaximumProblem& part) {
  T* y = static_cast<T*>(part.y);
  for (int64_t cell = 0; cell < cells_of(part); ++cell)
    if (part.index[cell] < 0) y[cell] = std::numeric_limits<T>::lowest();
}
template <class P>
Slope pool(const Kernels& kernels, P& part, const Bytes&) {
  run(kernels, part, false);
  return Slope::kValue;
}
Slope pool(const Kernels& kernels, NoisyOrProblem& part, const Bytes&) {
  run(kernels, part, false);
  return Slope::kSurvival;
}
Slope pool(const Kernels& kernels, MaximumProblem& part, const Bytes& bytes) {
  const bool from_logits = part.from_logits;
  part.from_logits = false;
  run(kernels, part, false);
  if (!from_logits) return Slope::kValue;
  bytes.arithmetic == 8 ? lower_empty<double>(part) : lower_empty<float>(part);
  return Slope::kLogit;
}

// Infinities of float16 become its largest numbers.
void saturate(const FrameTensor& tensor, const Problem& problem) {
  constexpr uint16_t kInfinity = 0x7c00;
  if (tensor.data == nullptr) return;
  const bool by_frame = problem.frames_contiguous;
  const int64_t lines = by_frame ? problem.classes : problem.frames;
  const int64_t length = by_frame ? problem.frames : problem.classes;
  const int64_t stride = by_frame ? tensor.stride_class : tensor.stride_frame;
  for (int64_t bag = 0; bag < problem.bags; ++bag) {
    for (int64_t line = 0; line < lines; ++line) {
      uint16_t* bits =
          static_cast<uint16_t*>(tensor.data) + bag * tensor.stride_bag + line * stride;
      for (int64_t index = 0; index < length; ++index)
        bits[index] = static_cast<uint16_t>(bits[index] - ((bits[index] & 0x7fff) == kInfinity));
    }
  }
}

// Bags and classes of a task: of the shape alone, so that results do not depend on the number of
// threads. `alone`: even one row is too long for a cache, and all threads share each task.
struct Cut {
  int64_t bags = 1;
  int64_t classes = 1;
  bool alone = false;
};

template <class P>
Cut cut(const P& problem, const Bytes& bytes) {
  // Pieces of a frame's classes lie far apart: they are cut later, at a cache's whole size.
  const int64_t room = problem.frames_contiguous ? kCacheBytes : 2 * kCacheBytes;
  const int64_t cached = room / (bytes.element * tensors_of(problem));
  const int64_t elements = cells_of(problem) * problem.frames;
  const int64_t share = std::min(cached, std::max(elements / kTasks, kFewestElements));
  const int64_t frames = std::max<int64_t>(problem.frames, 1);
  const int64_t bag = problem.classes * frames;
  const bool divides = !mixes_classes(problem) && bag > share;
  const int64_t line = problem.frames_contiguous ? 1 : kLineClasses;
  Cut result{1, problem.classes};
  if (divides)
    result.classes = std::min(problem.classes, std::max<int64_t>(share / frames / line, 1) * line);
  // A bag's share of a parameter's gradient is what its own task sums.
  else if (!learns(problem))
    result.bags = std::max<int64_t>(share / std::max<int64_t>(bag, 1), 1);
  result.alone = result.classes * frames > 4 * cached;
  if (result.alone) result = {learns(problem) ? 1 : problem.bags, problem.classes, true};
  return result;
}

// Whether the forward pass keeps what the backward pass would compute again: where it stays in a
// cache, as bags of contiguous classes do not, and lies in the frames' order.
void keep_decays(Problem&, Element, bool) {}
void keep_decays(AverageProblem& part, Element element, bool cached) {
  part.keeps_decays = cached && element == Element::kFloat32 && part.from_logits &&
                      part.x_gradient.data != nullptr && part.frames_contiguous &&
                      part.frames > kShortRow;
}

template <class P>
void run_slice(const P& problem, const CrossEntropyProblem& loss, const Slice& slice, int threads,
               bool cached, const Kernels& kernels, Element element) {
  const Bytes bytes = bytes_of(element);
  // Of bags without frames x's gradient has no address, and learned parameters' is still asked for.
  const bool backward = problem.x_gradient.data != nullptr || learns(problem);
  Memory memory;
  P part = sliced(problem, slice, bytes);
  part.exact_bags = true;
  part.threads = threads;
  const int64_t cell_bytes = cells_of(part) * bytes.arithmetic;
  part.y = memory.take(cell_bytes);
  give_memory(part, learns(problem), bytes, memory);
  keep_decays(part, element, cached);
  CrossEntropyProblem own = loss;
  own.slope = pool(kernels, part, bytes);
  own.bags = part.bags;
  own.classes = part.classes;
  own.stride_bag = problem.classes;
  own.from_logits = problem.from_logits;
  own.y = part.y;
  own.complement = complement_of(part, bytes, memory);
  own.target = cells_at(loss.target, problem, slice, bytes.arithmetic);
  own.weight = cells_at(loss.weight, problem, slice, bytes.arithmetic);
  own.known = cells_at(loss.known, problem, slice, 1);
  own.loss = cells_at(loss.loss, problem, slice, bytes.arithmetic);
  own.gradient = backward ? memory.take(cell_bytes) : nullptr;
  kernels.cross_entropy(own);
  if (!backward) return;
  part.gradient = own.gradient;
  give_learned(part, problem, slice, bytes);
  run(kernels, part, true);
  if (element != Element::kFloat16) return;
  saturate(part.x_gradient, part);
  saturate(scores_gradient_of(part), part);
}

template <class T>
double sum_values(const void* values, int64_t count) {
  double sum = 0;
  for (int64_t index = 0; index < count; ++index)
    sum += static_cast<double>(static_cast<const T*>(values)[index]);
  return sum;
}

}  // namespace

template <class P>
void pool_bce(const P& problem, const CrossEntropyProblem& loss, const Kernels& kernels,
              Element element) {
  if (cells_of(problem) == 0) return;
  const Cut size = cut(problem, bytes_of(element));
  const int64_t class_blocks = (problem.classes + size.classes - 1) / size.classes;
  const int64_t bag_blocks = (problem.bags + size.bags - 1) / size.bags;
  const int64_t elements = cells_of(problem) * problem.frames;
  const int threads = size.alone ? problem.threads : 1;
  parallel_for(class_blocks * bag_blocks, elements, size.alone ? 1 : problem.threads,
               [&](int64_t task) {
                 const int64_t bag = task / class_blocks * size.bags;
                 const int64_t index = task % class_blocks * size.classes;
                 const Slice slice{{bag, std::min(size.bags, problem.bags - bag)},
                                   {index, std::min(size.classes, problem.classes - index)},
                                   {0, problem.frames}};
                 run_slice(problem, loss, slice, threads, !size.alone, kernels, element);
               });
}

#define MILKERNELS_POOL_BCE(PROBLEM) \
  template void pool_bce(const PROBLEM&, const CrossEntropyProblem&, const Kernels&, Element);
MILKERNELS_POOL_BCE(AverageProblem)
MILKERNELS_POOL_BCE(MaximumProblem)
MILKERNELS_POOL_BCE(NoisyOrProblem)
MILKERNELS_POOL_BCE(LogMeanExpProblem)
MILKERNELS_POOL_BCE(ClassAttentionProblem)
MILKERNELS_POOL_BCE(RankProblem)

double sum_in_order(const void* values, int64_t count, Element element) {
  return element == Element::kFloat64 ? sum_values<double>(values, count)
                                      : sum_values<float>(values, count);
}

}  // namespace milkernels
