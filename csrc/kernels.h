// The kernels that each instruction set and element type has: a row of this list each. They are
// defined in the header of their family and instantiated in its .cpp file.
#pragma once

#include "arguments.h"
#include "cross_entropy_problem.h"

#define MILKERNELS_KERNELS(KERNEL)                          \
  KERNEL(average_forward, AverageProblem)                   \
  KERNEL(average_backward, AverageProblem)                  \
  KERNEL(maximum_forward, MaximumProblem)                   \
  KERNEL(maximum_backward, MaximumProblem)                  \
  KERNEL(noisy_or_forward, NoisyOrProblem)                  \
  KERNEL(noisy_or_backward, NoisyOrProblem)                 \
  KERNEL(log_mean_exp_forward, LogMeanExpProblem)           \
  KERNEL(log_mean_exp_backward, LogMeanExpProblem)          \
  KERNEL(statistics_forward, StatisticsProblem)             \
  KERNEL(statistics_backward, StatisticsProblem)            \
  KERNEL(gated_fusion_forward, GatedFusionProblem)          \
  KERNEL(gated_fusion_backward, GatedFusionProblem)         \
  KERNEL(linear_attention_forward, LinearAttentionProblem)  \
  KERNEL(linear_attention_backward, LinearAttentionProblem) \
  KERNEL(class_attention_forward, ClassAttentionProblem)    \
  KERNEL(class_attention_backward, ClassAttentionProblem)   \
  KERNEL(rank_forward, RankProblem)                         \
  KERNEL(rank_backward, RankProblem)                        \
  KERNEL(cross_entropy, CrossEntropyProblem)

namespace milkernels {

#define MILKERNELS_MEMBER(NAME, PROBLEM) void (*NAME)(const PROBLEM&);
struct Kernels {
  MILKERNELS_KERNELS(MILKERNELS_MEMBER)
};
#undef MILKERNELS_MEMBER

#ifdef MILKERNELS_INSTRUCTION_SET
namespace MILKERNELS_INSTRUCTION_SET {

#define MILKERNELS_DECLARATION(NAME, PROBLEM) \
  template <class E>                          \
  void NAME(const PROBLEM& problem);
MILKERNELS_KERNELS(MILKERNELS_DECLARATION)
#undef MILKERNELS_DECLARATION

}  // namespace MILKERNELS_INSTRUCTION_SET
#endif

}  // namespace milkernels
