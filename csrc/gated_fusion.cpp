#include "gated_fusion.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void gated_fusion_forward<MILKERNELS_ELEMENT>(const GatedFusionProblem&);
template void gated_fusion_backward<MILKERNELS_ELEMENT>(const GatedFusionProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
