#include "noisy_or.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void noisy_or_forward<MILKERNELS_ELEMENT>(const NoisyOrProblem&);
template void noisy_or_backward<MILKERNELS_ELEMENT>(const NoisyOrProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
