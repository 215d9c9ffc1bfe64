// Pooling, binary cross-entropy and their gradient in one reading of the frames: each task pools a
// few bags and classes with the family's own kernels while their frames lie in its core's cache.
#pragma once

#include "dispatch.h"

namespace milkernels {

// Fills the loss of each bag and class and, where the problem has memory for them, the gradients of
// the loss times its scale: x's (and the scores') and of each learned parameter a (bags, classes)
// part, each bag's own. The problem's y, statistics, scratch, ranks and places are not used.
template <class P>
void pool_bce(const P& problem, const CrossEntropyProblem& loss, const Kernels& kernels,
              Element element);

// Σ of `count` values, in order.
double sum_in_order(const void* values, int64_t count, Element element);

}  // namespace milkernels
