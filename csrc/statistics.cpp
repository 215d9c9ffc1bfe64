#include "kernels.h"
#include "statistics_backward.h"
#include "statistics_forward.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void statistics_forward<MILKERNELS_ELEMENT>(const StatisticsProblem&);
template void statistics_backward<MILKERNELS_ELEMENT>(const StatisticsProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
