// Short rows of contiguous frames, or frames of few contiguous classes, that lie one behind the
// other are one line: its vectors cross from one to the next, and none is half empty but the last.
#pragma once

#include "constants.h"
#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// With shorter vectors rows gain nothing.
template <class E>
constexpr bool kLinesOfRows = std::is_same_v<E, float> && kLanes<float> >= 16;

template <class E>
constexpr bool kLinesOfClasses = std::is_same_v<E, float> && kLanes<float> >= 8;

// The row of each lane of a line's vector, of up to 2^16 frames.
class RowsOfLanes {
 public:
  explicit RowsOfLanes(int64_t frames) : inverse_(broadcast(1.0f / static_cast<float>(frames))) {}

  // A half keeps every quotient further from a whole number than its rounding.
  MILKERNELS_INLINE Integer<float> from(int64_t index) const {
    const Vector<float> lanes =
        __builtin_convertvector(lane_numbers<float>(), Vector<float>) + 0.5f;
    return __builtin_convertvector((lanes + static_cast<float>(index)) * inverse_, Integer<float>);
  }

 private:
  Vector<float> inverse_;
};

// The class of each lane of a line's vector.
class ClassesOfLanes {
 public:
  explicit ClassesOfLanes(int64_t classes)
      : classes_(static_cast<int32_t>(classes)), frames_(classes) {}

  MILKERNELS_INLINE Integer<float> from(int64_t first_class) const {
    return lane_numbers<float>() + static_cast<int32_t>(first_class) -
           frames_.from(first_class) * classes_;
  }

 private:
  int32_t classes_;
  RowsOfLanes frames_;
};

// The constants of a line's vectors, where its rows' are one vector.
template <class Constants>
class ConstantsOfRows {
 public:
  ConstantsOfRows(int64_t frames, const Constants& constants)
      : rows_(frames), constants_(constants) {}

  // Of kVectors vectors from an index on, each by its number.
  template <int kVectors>
  MILKERNELS_INLINE auto next(int64_t index) {
    return [this, index](int k) MILKERNELS_INLINE_LAMBDA {
      return spread(constants_, rows_.from(index + k * kLanes<float>));
    };
  }

 private:
  RowsOfLanes rows_;
  Constants constants_;
};

// The classes that the vectors of a line begin with.
class FirstClasses {
 public:
  explicit FirstClasses(int64_t classes) : classes_(classes), step_(kLanes<float> % classes) {}

  MILKERNELS_INLINE int64_t next() {
    const int64_t first = next_;
    next_ += step_;
    next_ = next_ < classes_ ? next_ : next_ - classes_;
    return first;
  }

 private:
  int64_t classes_;
  int64_t step_;
  int64_t next_ = 0;
};

// The constants of a line's vectors, where classes are contiguous: `from(first_class)` gives them.
// Groups of vectors are asked for in order.
template <class From>
class ConstantsOfClasses {
 public:
  ConstantsOfClasses(int64_t classes, const From& from) : from_(from), first_classes_(classes) {}

  template <int kVectors>
  MILKERNELS_INLINE auto next(int64_t) {
    struct Group {
      const From& from;
      int64_t first_class[kVectors];

      MILKERNELS_INLINE auto operator()(int k) const { return from(first_class[k]); }
    };
    Group group{from_, {}};
    MILKERNELS_UNROLL
    for (int k = 0; k < kVectors; ++k) group.first_class[k] = first_classes_.next();
    return group;
  }

 private:
  const From& from_;
  FirstClasses first_classes_;
};

// Calls run(constants) for a line of classes; make(first, count) gives the constants of `count`
// classes. Those of a vector are chosen within it, which is soon begun, or read from memory.
template <class E, class Make, class Run>
MILKERNELS_INLINE void with_constants_of_classes(int64_t classes, const Make& make,
                                                 const Run& run) {
  using Constants = decltype(make(0, 0));
  if constexpr (kLinesOfRows<E>)
    if (classes <= kLanes<float>) {
      const Constants constants = make(0, classes);
      const ClassesOfLanes classes_of(classes);
      const auto from = [&](int64_t first_class) MILKERNELS_INLINE_LAMBDA {
        return spread(constants, classes_of.from(first_class));
      };
      return run(ConstantsOfClasses<decltype(from)>(classes, from));
    }
  const RepeatedConstants<float, Constants> constants(classes, make);
  const auto from = [&](int64_t first_class)
                        MILKERNELS_INLINE_LAMBDA { return constants.from(first_class); };
  run(ConstantsOfClasses<decltype(from)>(classes, from));
}

// Frames of the longest rows that make a line, where a frame takes much time beside what is chosen
// for it of its row's constants, and where it does not.
template <bool kMuch>
constexpr int64_t kLongestInLine = kMuch ? kShortRow : kShortRow / 4;

// Whether rows without a mask are a line, in two tensors.
inline bool are_lines(const Problem& problem, int64_t longest, const FrameTensor& frames,
                      const FrameTensor& gradients) {
  return problem.frames_contiguous && problem.mask == nullptr && problem.frames <= longest &&
         frames.stride_class == problem.frames && gradients.stride_class == problem.frames;
}

// Whether frames of few contiguous classes, without a mask, are a line in two tensors.
inline bool are_lines_of_classes(const Problem& problem, const FrameTensor& frames,
                                 const FrameTensor& gradients) {
  return !problem.frames_contiguous && problem.mask == nullptr && problem.classes > 1 &&
         leave_lanes_empty<float>(problem.classes) && frames.stride_frame == problem.classes &&
         gradients.stride_frame == problem.classes;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
