// Tasks over the threads of PyTorch's own pool: its OpenMP runtime is the one already loaded.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace milkernels {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerThread = 16384;

template <class Body>
inline void parallel_for(int64_t tasks, int64_t elements, int threads, const Body& body) {
#ifdef _OPENMP
  const int64_t useful = elements / kElementsPerThread;
  if (threads > useful) threads = static_cast<int>(useful);
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads > 1 && !omp_in_parallel()) {
    const int64_t share = tasks / (threads * int64_t{8});
    const int64_t grain = share > 1 ? share : 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, grain)
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
#else
  (void)elements;
  (void)threads;
#endif
  for (int64_t task = 0; task < tasks; ++task) body(task);
}

}  // namespace milkernels
