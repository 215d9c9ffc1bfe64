// What both directions of the weighted averages read: coefficients of each class and the statistics
// of each bag and class.
#pragma once

#include "formula.h"
#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class T>
MILKERNELS_INLINE T* statistics_row(const AverageProblem& problem, int row) {
  return static_cast<T*>(problem.statistics) + row * problem.bags * problem.classes;
}

template <class T>
MILKERNELS_INLINE FormulaCoefficients<T> load_coefficients(const AverageProblem& problem,
                                                           int64_t class_index, int64_t count) {
  const auto load_values = [&](const void* values) {
    if (values == nullptr) return broadcast(T(1));
    return load_lanes(static_cast<const T*>(values) + class_index, count);
  };
  return {load_values(problem.alpha), load_values(problem.power), problem.activation};
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
