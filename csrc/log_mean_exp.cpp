#include "log_mean_exp.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void log_mean_exp_forward<MILKERNELS_ELEMENT>(const LogMeanExpProblem&);
template void log_mean_exp_backward<MILKERNELS_ELEMENT>(const LogMeanExpProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
