// The kernels that each instruction set and element type has: declared here for their table, defined
// in the header of their family, instantiated in its .cpp file.
#pragma once

#include "arguments.h"

namespace milkernels {

struct Kernels {
  void (*average_forward)(const AverageProblem&);
  void (*average_backward)(const AverageProblem&);
  void (*maximum_forward)(const MaximumProblem&);
  void (*maximum_backward)(const MaximumProblem&);
};

#ifdef MILKERNELS_INSTRUCTION_SET
namespace MILKERNELS_INSTRUCTION_SET {

template <class E>
void average_forward(const AverageProblem& problem);
template <class E>
void average_backward(const AverageProblem& problem);
template <class E>
void maximum_forward(const MaximumProblem& problem);
template <class E>
void maximum_backward(const MaximumProblem& problem);

}  // namespace MILKERNELS_INSTRUCTION_SET
#endif

}  // namespace milkernels
