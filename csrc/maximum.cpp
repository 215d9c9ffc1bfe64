#include "maximum.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void maximum_forward<MILKERNELS_ELEMENT>(const MaximumProblem&);
template void maximum_backward<MILKERNELS_ELEMENT>(const MaximumProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
