// How the kernels walk (bags, classes, frames) tensors. Frames contiguous: a task is a row of
// frames and lanes run along it. Classes contiguous: a task is a block of classes and lanes are
// classes.
#pragma once

#include "elements.h"
#include "long_sum.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Vectors taken at once: the peak is checked once for all of them, and chains of dependent
// instructions run side by side, as many as the registers hold. One is quick to compile: for double
// precision, which is for checking, and for x86 processors older than AVX2.
#if defined(__AVX512F__) || !defined(__x86_64__)
constexpr int kRegistersAllow = 4;
#elif defined(__AVX2__)
constexpr int kRegistersAllow = 2;
#else
constexpr int kRegistersAllow = 1;
#endif
template <class T>
constexpr int kGroup = sizeof(T) == 4 ? kRegistersAllow : 1;

// Frames that a block of classes takes before the next block's turn: its sums, which wait in
// memory, are then little beside them.
constexpr int kFramesAtOnce = 8;

// Vectors of classes that one task keeps its sums for, at most: AudioSet's classes are 33 of the
// longest vectors, and a row of them is then read in one piece.
constexpr int kClassVectors = 36;

template <class E>
const E* at(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return static_cast<const E*>(tensor.data) + bag * tensor.stride_bag +
         class_index * tensor.stride_class + frame * tensor.stride_frame;
}

template <class E>
E* at_mutable(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return const_cast<E*>(at<E>(tensor, bag, class_index, frame));
}

template <class E>
MILKERNELS_INLINE Vector<Arithmetic<E>> load_lanes(const E* from, int64_t count) {
  return count == kLanes<Arithmetic<E>> ? load(from) : load_first(from, count);
}

template <class E>
MILKERNELS_INLINE void store_lanes(E* to, Vector<Arithmetic<E>> value, int64_t count) {
  if (count == kLanes<Arithmetic<E>>)
    store(to, value);
  else
    store_first(to, value, count);
}

// x and, for a family that has them, the scores beside it.
template <bool kScores, class Problem>
MILKERNELS_INLINE FrameTensor scores_or_x(const Problem& problem) {
  if constexpr (kScores)
    return problem.scores;
  else
    return problem.x;
}

// Gradients of the bag values from `cell` on, and those values written.
template <class E, class P>
MILKERNELS_INLINE Vector<Arithmetic<E>> bag_gradients(const P& problem, int64_t cell,
                                                      int64_t count) {
  if (problem.exact_bags)
    return load_lanes(static_cast<const Arithmetic<E>*>(problem.gradient) + cell, count);
  return load_lanes(static_cast<const E*>(problem.gradient) + cell, count);
}

template <class E, class P>
MILKERNELS_INLINE void store_bags(const P& problem, int64_t cell, Vector<Arithmetic<E>> y,
                                  int64_t count) {
  if (problem.exact_bags)
    store_lanes(static_cast<Arithmetic<E>*>(problem.y) + cell, y, count);
  else
    store_lanes(static_cast<E*>(problem.y) + cell, y, count);
}

MILKERNELS_INLINE const uint8_t* mask_row(const Problem& problem, int64_t bag) {
  return problem.mask == nullptr ? nullptr : problem.mask + bag * problem.mask_stride_bag;
}

// Lanes of a row of frames that are real.
template <class T>
MILKERNELS_INLINE Integer<T> real_lanes(const Problem& problem, const uint8_t* mask, int64_t frame,
                                        int64_t count) {
  if (mask == nullptr && count == kLanes<T>) return every_lane<T>();
  Integer<T> real = first_lanes<T>(count);
  if (mask == nullptr) return real;
  if (problem.mask_stride_frame == 1) return real & load_flags<T>(mask + frame, count);
  for (int64_t lane = 0; lane < count; ++lane)
    if (!mask[(frame + lane) * problem.mask_stride_frame]) real[lane] = 0;
  return real;
}

// Which lanes of a vector there are, and which of those are real frames.
template <class T>
struct PresentLanes {
  Integer<T> real;
  int64_t count;
};

// Calls body(vectors, all, index, lanes_of) for the values from `first` to `last`: for groups of
// vectors all of whose lanes are present, where that is known, then for what is left.
template <class T, class Lanes, class Body>
MILKERNELS_INLINE void walk_groups(int64_t first, int64_t last, bool whole, const Lanes& lanes_at,
                                   const Body& body) {
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kGroupStep = kGroup<T> * kStep;
  constexpr auto kMany = std::integral_constant<int, kGroup<T>>();
  constexpr auto kOne = std::integral_constant<int, 1>();
  const auto all = [](int)
                       MILKERNELS_INLINE_LAMBDA { return PresentLanes<T>{every_lane<T>(), kStep}; };
  int64_t index = first;
  if (whole)
    for (; index + kGroupStep <= last; index += kGroupStep)
      body(kMany, std::true_type(), index, all);
  const auto some = [&](int k) MILKERNELS_INLINE_LAMBDA {
    const int64_t here = index + k * kStep;
    const int64_t rest = here < last ? last - here : 0;
    return lanes_at(here, rest < kStep ? rest : kStep);
  };
  if constexpr (kGroup<T> > 1)
    for (; index + (kGroup<T> - 1) * kStep < last; index += kGroupStep)
      body(kMany, std::false_type(), index, some);
  for (; index < last; index += kStep) body(kOne, std::false_type(), index, some);
}

// Frames `first` to `last` of a contiguous row.
template <class T, class Body>
MILKERNELS_INLINE void walk_row(const Problem& problem, const uint8_t* mask, int64_t first,
                                int64_t last, const Body& body) {
  const auto lanes_at = [&](int64_t frame, int64_t count) MILKERNELS_INLINE_LAMBDA {
    return PresentLanes<T>{real_lanes<T>(problem, mask, frame, count), count};
  };
  walk_groups<T>(first, last, mask == nullptr, lanes_at, body);
}

// As many contiguous classes, all of a real frame.
template <class T, class Body>
MILKERNELS_INLINE void walk_classes(int64_t classes, const Body& body) {
  const auto lanes_at = [](int64_t, int64_t count) MILKERNELS_INLINE_LAMBDA {
    return PresentLanes<T>{every_lane<T>(), count};
  };
  walk_groups<T>(0, classes, true, lanes_at, body);
}

// What one task walks: classes of one bag, and a segment of its frames.
struct Stretch {
  int64_t bag;
  int64_t class_start;
  int64_t class_end;
  int64_t segment;
  int64_t first;
  int64_t last;
};

// All tasks of a pass over a problem's frames, which cuts them into so many segments. Frames
// contiguous: a task has up to a vector of classes, with whole_vectors as many as there are.
// Classes contiguous: blocks of equal size.
class Stretches {
 public:
  Stretches(const Problem& problem, int64_t segments, int64_t lanes, bool whole_vectors = false)
      : problem_(problem),
        segments_(segments),
        segment_frames_((problem.frames + segments - 1) / segments) {
    const int64_t vectors = (problem.classes + lanes - 1) / lanes;
    const int64_t widest = problem.frames_contiguous ? 1 : kClassVectors;
    const int64_t wished = vectors > 0 ? (vectors + widest - 1) / widest : 1;
    block_classes_ = (vectors + wished - 1) / wished * lanes;
    if (problem.frames_contiguous && !whole_vectors) block_classes_ = narrower(block_classes_);
    blocks_ = block_classes_ > 0 ? (problem.classes + block_classes_ - 1) / block_classes_ : 0;
  }

  int64_t count() const { return problem_.bags * blocks_ * segments_; }

  Stretch at(int64_t task) const {
    const int64_t start = task % blocks_ * block_classes_;
    const int64_t end = start + block_classes_;
    const int64_t segment = task / blocks_ % segments_;
    const int64_t first = segment * segment_frames_;
    const int64_t last = first + segment_frames_;
    return {task / blocks_ / segments_,
            start,
            end < problem_.classes ? end : problem_.classes,
            segment,
            first < problem_.frames ? first : problem_.frames,
            last < problem_.frames ? last : problem_.frames};
  }

 private:
  // Rows are independent: with few of them, tasks of fewer rows keep all threads at work.
  int64_t narrower(int64_t block_classes) const {
    const int64_t wanted = 4 * int64_t{problem_.threads};
    const int64_t rows = problem_.bags * problem_.classes * segments_;
    const int64_t each = rows / (wanted > 0 ? wanted : 1);
    if (each >= block_classes) return block_classes;
    return each > 0 ? each : 1;
  }

  const Problem& problem_;
  int64_t segments_;
  int64_t segment_frames_;
  int64_t block_classes_ = 0;
  int64_t blocks_ = 0;
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
