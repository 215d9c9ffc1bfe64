#include "linear_attention.h"

#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void linear_attention_forward<MILKERNELS_ELEMENT>(const LinearAttentionProblem&);
template void linear_attention_backward<MILKERNELS_ELEMENT>(const LinearAttentionProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
