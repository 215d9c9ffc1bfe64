#include "weighted_average_forward.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {
namespace {

template <class E, bool kFromLogits>
void run(const AverageProblem& problem) {
  with_formula<kFromLogits>(problem.member, problem.activation, [&](auto formula) {
    gather<E, WeightedAverage<E, decltype(formula)>>(problem);
  });
}

}  // namespace

template <class E>
void average_forward(const AverageProblem& problem) {
  problem.from_logits ? run<E, true>(problem) : run<E, false>(problem);
}

template void average_forward<MILKERNELS_ELEMENT>(const AverageProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
