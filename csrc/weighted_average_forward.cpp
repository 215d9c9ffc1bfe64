#include "weighted_average_forward.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {
namespace {

template <class E, bool kFromLogits>
void run(const AverageProblem& problem) {
  switch (problem.member) {
#define MILKERNELS_CASE(M) \
  case Member::M:          \
    return gather_averages<E, Formula<Member::M, kFromLogits>>(problem);
    MILKERNELS_CASE(kMean)
    MILKERNELS_CASE(kLinear)
    MILKERNELS_CASE(kExponential)
    MILKERNELS_CASE(kPower)
    MILKERNELS_CASE(kPowerExponential)
    MILKERNELS_CASE(kAttention)
#undef MILKERNELS_CASE
  }
}

}  // namespace

template <class E>
void average_forward(const AverageProblem& problem) {
  problem.from_logits ? run<E, true>(problem) : run<E, false>(problem);
}

template void average_forward<MILKERNELS_ELEMENT>(const AverageProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
