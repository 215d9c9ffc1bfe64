// The table of kernels of one instruction set and one element type, both given when this file is
// compiled: every .cpp of a family is compiled once for each pair, too.
#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

#define MILKERNELS_JOIN_(a, b) a##_##b
#define MILKERNELS_JOIN(a, b) MILKERNELS_JOIN_(a, b)
#define MILKERNELS_ENTRY(NAME, PROBLEM) NAME<MILKERNELS_ELEMENT>,

extern const Kernels MILKERNELS_JOIN(kernels,
                                     MILKERNELS_ELEMENT) = {MILKERNELS_KERNELS(MILKERNELS_ENTRY)};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
