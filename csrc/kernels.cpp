// The table of kernels of one instruction set and one element type, both given when this file is
// compiled: every .cpp of a family is compiled once for each pair, too.
#include "kernels.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

using Element = MILKERNELS_ELEMENT;

#define MILKERNELS_JOIN_(a, b) a##_##b
#define MILKERNELS_JOIN(a, b) MILKERNELS_JOIN_(a, b)

extern const Kernels MILKERNELS_JOIN(kernels, MILKERNELS_ELEMENT) = {
    average_forward<Element>,
    average_backward<Element>,
    maximum_forward<Element>,
    maximum_backward<Element>,
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
