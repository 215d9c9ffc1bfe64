// The kernels for one instruction set and one element type, both given when this file is compiled:
// it is compiled once for each pair.
#include "maximum.h"
#include "weighted_average_backward.h"
#include "weighted_average_forward.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {
namespace {

using Element = MILKERNELS_ELEMENT;

template <Member kMember, bool kFromLogits>
void forward(const AverageProblem& problem) {
  average_forward<Element, Formula<kMember, kFromLogits>>(problem);
}

template <Member kMember, bool kFromLogits>
void backward(const AverageProblem& problem) {
  using F = Formula<kMember, kFromLogits>;
  const bool learn = problem.power_gradient != nullptr || problem.alpha_gradient != nullptr;
  if (learn)
    average_backward<Element, F, F::kAlpha || F::kPower>(problem);
  else
    average_backward<Element, F, false>(problem);
}

using Average = void (*)(const AverageProblem&);

template <bool kFromLogits>
Average choose(Member member, bool is_forward) {
  switch (member) {
#define MILKERNELS_CASE(M) \
  case Member::M:          \
    return is_forward ? forward<Member::M, kFromLogits> : backward<Member::M, kFromLogits>;
    MILKERNELS_CASE(kMean)
    MILKERNELS_CASE(kLinear)
    MILKERNELS_CASE(kExponential)
    MILKERNELS_CASE(kPower)
    MILKERNELS_CASE(kPowerExponential)
    MILKERNELS_CASE(kAttention)
#undef MILKERNELS_CASE
  }
  return nullptr;
}

void run(const AverageProblem& problem, bool is_forward) {
  const Average average = problem.from_logits ? choose<true>(problem.member, is_forward)
                                              : choose<false>(problem.member, is_forward);
  average(problem);
}

}  // namespace

#define MILKERNELS_JOIN_(a, b) a##_##b
#define MILKERNELS_JOIN(a, b) MILKERNELS_JOIN_(a, b)

extern const Kernels MILKERNELS_JOIN(kernels, MILKERNELS_ELEMENT) = {
    [](const AverageProblem& problem) { run(problem, true); },
    [](const AverageProblem& problem) { run(problem, false); },
    maximum_forward<Element>,
    maximum_backward<Element>,
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
