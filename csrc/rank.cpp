#include "rank.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void rank_forward<MILKERNELS_ELEMENT>(const RankProblem&);
template void rank_backward<MILKERNELS_ELEMENT>(const RankProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
