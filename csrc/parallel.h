// Tasks over the threads of PyTorch's own pool: its OpenMP runtime is the one already loaded.
// ThreadSanitizer cannot see into that runtime: what is built for it starts threads of its own.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace milkernels {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kElementsPerThread = 16384;

// Runs tasks, and fails as the first that fails: no exception may leave a thread of a team.
class Attempts {
 public:
  template <class Body>
  void run(const Body& body, int64_t task) {
    try {
      body(task);
    } catch (...) {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void finish() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// Internal to each file that includes this: see arguments.h.
#if defined(__SANITIZE_THREAD__)

inline thread_local bool inside_parallel = false;
static inline bool in_parallel() { return inside_parallel; }

// Tasks in turns: neighbours, which may touch the same memory, are surely different threads'.
template <class Body>
inline void share_out(int64_t tasks, int64_t, int threads, const Body& body) {
  Attempts attempts;
  const auto work = [&](int number) {
    inside_parallel = true;
    for (int64_t task = number; task < tasks; task += threads) attempts.run(body, task);
    inside_parallel = false;
  };
  std::vector<std::thread> others;
  for (int number = 1; number < threads; ++number) others.emplace_back(work, number);
  work(0);
  for (std::thread& other : others) other.join();
  attempts.finish();
}

#elif defined(_OPENMP)

static inline bool in_parallel() { return omp_in_parallel(); }

template <class Body>
inline void share_out(int64_t tasks, int64_t grain, int threads, const Body& body) {
  Attempts attempts;
#pragma omp parallel for num_threads(threads) schedule(dynamic, grain)
  for (int64_t task = 0; task < tasks; ++task) attempts.run(body, task);
  attempts.finish();
}

#else

static inline bool in_parallel() { return true; }

template <class Body>
inline void share_out(int64_t, int64_t, int, const Body&) {}

#endif

template <class Body>
inline void parallel_for(int64_t tasks, int64_t elements, int threads, const Body& body) {
  const int64_t useful = elements / kElementsPerThread;
  if (threads > useful) threads = static_cast<int>(useful);
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads > 1 && !in_parallel()) {
    const int64_t share = tasks / (threads * int64_t{8});
    share_out(tasks, share > 1 ? share : 1, threads, body);
    return;
  }
  for (int64_t task = 0; task < tasks; ++task) body(task);
}

}  // namespace milkernels
