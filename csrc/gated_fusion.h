// The gate of gated fusion, forward and backward: elementwise beside the matrix products.
#pragma once

#include "formula.h"
#include "frames.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Calls body(first, count) for each vector of elements.
template <class T, class Body>
inline void for_each_vector(const GatedFusionProblem& problem, const Body& body) {
  const int64_t tasks = (problem.elements + kElementsPerThread - 1) / kElementsPerThread;
  parallel_for(tasks, problem.elements, problem.threads, [&](int64_t task) {
    const int64_t first = task * kElementsPerThread;
    const int64_t rest = problem.elements - first;
    const int64_t last = first + (rest < kElementsPerThread ? rest : kElementsPerThread);
    for (int64_t index = first; index < last; index += kLanes<T>)
      body(index, last - index < kLanes<T> ? last - index : kLanes<T>);
  });
}

template <class E>
void gated_fusion_forward(const GatedFusionProblem& problem) {
  using T = Arithmetic<E>;
  const E* c = static_cast<const E*>(problem.c);
  const E* gate = static_cast<const E*>(problem.gate);
  E* y = static_cast<E*>(problem.y);
  for_each_vector<T>(problem, [&](int64_t index, int64_t count) {
    const Sigmoid<T> open = sigmoid<T>(load_lanes(gate + index, count));
    store_lanes(y + index, open.value * load_lanes(c + index, count), count);
  });
}

template <class E>
void gated_fusion_backward(const GatedFusionProblem& problem) {
  using T = Arithmetic<E>;
  const E* c = static_cast<const E*>(problem.c);
  const E* gate = static_cast<const E*>(problem.gate);
  const E* gradient = static_cast<const E*>(problem.gradient);
  E* c_gradient = static_cast<E*>(problem.c_gradient);
  E* gate_gradient = static_cast<E*>(problem.gate_gradient);
  for_each_vector<T>(problem, [&](int64_t index, int64_t count) {
    const Sigmoid<T> open = sigmoid<T>(load_lanes(gate + index, count));
    const Vector<T> through = load_lanes(gradient + index, count) * open.value;
    if (c_gradient != nullptr) store_lanes(c_gradient + index, through, count);
    if (gate_gradient != nullptr)
      store_lanes(gate_gradient + index, through * open.complement * load_lanes(c + index, count),
                  count);
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
