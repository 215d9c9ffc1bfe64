// What kernels read for each class, or each bag and class: structs of vectors, whose
// each(choose) is a copy with choose(vector) of every one.
#pragma once

#include "elements.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// One lane's in every lane, or with a vector of lanes in each its own.
template <class Constants, class Lane>
MILKERNELS_INLINE Constants spread(const Constants& constants, const Lane& lane) {
  return constants.each([&](const auto& vector)
                            MILKERNELS_INLINE_LAMBDA { return chosen(vector, lane); });
}

// Whether contiguous classes leave a quarter of the lanes or more empty.
template <class T>
bool leave_lanes_empty(int64_t classes) {
  constexpr int64_t kStep = kLanes<T>;
  return 4 * classes <= 3 * ((classes + kStep - 1) / kStep * kStep);
}

// As many such classes as there can be.
template <class T>
constexpr int64_t kMostRepeated = 3 * kLanes<T>;

// Their constants, repeated: a vector of frames may begin with any class, and the first follows the
// last.
template <class T, class Constants>
class RepeatedConstants {
  static constexpr int64_t kStep = kLanes<T>;

 public:
  // make(first, count) gives those of `count` classes.
  template <class Make>
  RepeatedConstants(int64_t classes, const Make& make) {
    const auto count = [&](int64_t first) {
      return classes - first < kStep ? classes - first : kStep;
    };
    for (int64_t first = 0; first < classes; first += kStep) keep(make(first, count(first)), first);
    const Constants first_ones = make(0, count(0));
    for (int64_t from = classes; from < classes + kStep - 1; from += classes)
      keep(first_ones, from);
  }

  // Those of a vector that begins with a class.
  MILKERNELS_INLINE Constants from(int64_t class_index) const {
    int column = 0;
    return others_.each([&](const auto& vector) MILKERNELS_INLINE_LAMBDA {
      return bit_cast<std::decay_t<decltype(vector)>>(load(columns_[column++] + class_index));
    });
  }

 private:
  MILKERNELS_INLINE void keep(const Constants& constants, int64_t from) {
    int column = 0;
    others_ = constants.each([&](const auto& vector) MILKERNELS_INLINE_LAMBDA {
      store(columns_[column++] + from, bit_cast<Vector<T>>(vector));
      return vector;
    });
  }

  // What is no vector is the same for all classes.
  Constants others_;
  T columns_[sizeof(Constants) / sizeof(Vector<T>) + 1][kMostRepeated<T> + 2 * kStep];
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
