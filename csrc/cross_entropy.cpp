#include "cross_entropy.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void cross_entropy<MILKERNELS_ELEMENT>(const CrossEntropyProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
