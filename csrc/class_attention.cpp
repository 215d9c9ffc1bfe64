#include "class_attention_backward.h"
#include "class_attention_forward.h"
#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template void class_attention_forward<MILKERNELS_ELEMENT>(const ClassAttentionProblem&);
template void class_attention_backward<MILKERNELS_ELEMENT>(const ClassAttentionProblem&);

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
