// Gradients of learned parameters, from each frame's share to the sum over all bags.
#pragma once

#include "constants.h"
#include "frames.h"
#include "parallel.h"
#include "room.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// A task's share of the parameters' gradients: Σ g p r x and Σ g p r log x with r = x - y. As r
// sums to 0 under p, constants may be taken off x and log x, so that the sums do not cancel.
template <class T>
struct ParameterSums {
  Vector<T> alpha{};
  Vector<T> power{};
};

template <class T>
inline T* parameter_part(const AverageProblem& problem, int64_t parameter, int64_t part) {
  const int64_t cells = problem.bags * problem.classes;
  return static_cast<T*>(problem.scratch) + (parameter * parts_of(problem) + part) * cells;
}

// What a line's classes sum to: vectors that begin with the same class are added up together.
template <class F>
class SumsOfClasses {
  static constexpr int64_t kMost = kMostRepeated<float>;

 public:
  explicit SumsOfClasses(int64_t classes) : classes_(classes) {
    for (int64_t first = 0; first < classes; ++first) beginning_with_.make(first, {});
  }

  // The shares of the first `count` lanes of a vector that begins with a class.
  MILKERNELS_INLINE void add(const ParameterSums<float>& shares, int64_t first_class,
                             int64_t count) {
    const Vector<float> zero{};
    const auto there = lane_numbers<float>() < static_cast<int32_t>(count);
    ParameterSums<float>& sums = beginning_with_[first_class];
    if constexpr (F::kAlpha) sums.alpha += there ? shares.alpha : zero;
    if constexpr (F::kPower) sums.power += there ? shares.power : zero;
  }

  void write(const AverageProblem& problem, int64_t part, int64_t cell) {
    write(parameter_part<float>(problem, 0, part) + cell, &ParameterSums<float>::alpha);
    write(parameter_part<float>(problem, 1, part) + cell, &ParameterSums<float>::power);
  }

 private:
  void write(float* to, Vector<float> ParameterSums<float>::* parameter) {
    float sums[kMost + kLanes<float>] = {};
    for (int64_t first = 0; first < classes_; ++first)
      store(sums + first, load(sums + first) + beginning_with_[first].*parameter);
    for (int64_t lane = classes_; lane < classes_ + kLanes<float> - 1; ++lane)
      sums[lane % classes_] += sums[lane];
    std::memcpy(to, sums, static_cast<size_t>(classes_) * sizeof(float));
  }

  int64_t classes_;
  Room<ParameterSums<float>, kMost> beginning_with_;
};

// The rows' shares of the parameters' gradients.
template <class T>
void write_sums(const AverageProblem& problem, const Stretch& task, const ParameterSums<T>* sums) {
  const int64_t cell = task.bag * problem.classes + task.class_start;
  for (int64_t lane = 0; lane < task.class_end - task.class_start; ++lane) {
    parameter_part<T>(problem, 0, task.segment)[cell + lane] = sum_of_lanes<T>(sums[lane].alpha);
    parameter_part<T>(problem, 1, task.segment)[cell + lane] = sum_of_lanes<T>(sums[lane].power);
  }
}

// The same of a vector of rows or classes, each a lane, from a cell on.
template <class T>
void write_sums(const AverageProblem& problem, int64_t part, int64_t cell, int64_t count,
                const ParameterSums<T>& sums) {
  store_lanes(parameter_part<T>(problem, 0, part) + cell, sums.alpha, count);
  store_lanes(parameter_part<T>(problem, 1, part) + cell, sums.power, count);
}

// A learned parameter's gradient: the parts' shares over all bags, in order.
template <class T>
void sum_parts(const AverageProblem& problem, int64_t parameter, void* result) {
  constexpr int64_t kStep = kLanes<T>;
  const int64_t parts = parts_of(problem);
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    LongSum<T> sum;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t bag = 0; bag < problem.bags; ++bag) {
        const int64_t cell = bag * problem.classes + index;
        sum.add(load_lanes(parameter_part<T>(problem, parameter, part) + cell, count));
      }
    }
    store_lanes(static_cast<T*>(result) + index, sum.value(), count);
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
