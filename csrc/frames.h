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

// Where a frame's instructions are many and wait for one another the processor looks ahead too few
// of them to fill its time with a group that small.
#if defined(__AVX512F__)
template <class T, bool kLongChains>
constexpr int kLargeGroup = sizeof(T) == 4 && kLongChains ? 2 * kGroup<T> : kGroup<T>;
#else
template <class T, bool>
constexpr int kLargeGroup = kGroup<T>;
#endif

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

// Whether no cache holds so many elements. What one holds comes as fast as it is asked for.
template <class E>
MILKERNELS_INLINE bool are_far(int64_t elements) {
  constexpr int64_t kCachedBytes = int64_t{16} << 20;
  return elements * static_cast<int64_t>(sizeof(E)) > kCachedBytes;
}

// Whether a backward pass reads such frames.
template <class E>
MILKERNELS_INLINE bool are_far(const Problem& problem) {
  return are_far<E>(elements_of(problem));
}

// Whether a forward pass does: a part's frames have not been read, either.
template <class E>
MILKERNELS_INLINE bool come_from_far(const Problem& problem) {
  const int64_t elements = problem.whole_elements;
  return are_far<E>(elements > 0 ? elements : elements_of(problem));
}

MILKERNELS_INLINE const uint8_t* mask_row(const Problem& problem, int64_t bag) {
  return problem.mask == nullptr ? nullptr : problem.mask + bag * problem.mask_stride_bag;
}

// Lanes of a row of frames that are real.
template <class T>
MILKERNELS_INLINE Integer<T> real_lanes(const Problem& problem, const uint8_t* mask, int64_t frame,
                                        int64_t count) {
  const bool whole = count == kLanes<T>;
  if (mask == nullptr) return whole ? every_lane<T>() : first_lanes<T>(count);
  if (problem.mask_stride_frame == 1) return load_flags<T>(mask + frame, count);
  Integer<T> real = first_lanes<T>(count);
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

// The gradients of a group without a real frame.
template <class E>
MILKERNELS_INLINE void clear_group(E* gradients) {
  using T = Arithmetic<E>;
  std::memset(gradients, 0, sizeof(E) * kGroup<T> * kLanes<T>);
}

// How many frames of some are real.
enum class Real { kAll, kSome, kNone };

template <int64_t kCount>
MILKERNELS_INLINE Real real_of_flags(const uint8_t* flags) {
  using Word = std::conditional_t<kCount % 8 == 0, uint64_t, uint16_t>;
  constexpr Word kOnes = static_cast<Word>(0x0101010101010101);
  Word every = kOnes, any = 0;
  MILKERNELS_UNROLL
  for (int64_t index = 0; index < kCount; index += sizeof(Word)) {
    Word word;
    std::memcpy(&word, flags + index, sizeof word);
    every = static_cast<Word>(every & word);
    any = static_cast<Word>(any | word);
  }
  return every == kOnes ? Real::kAll : any == 0 ? Real::kNone : Real::kSome;
}

// Calls body(vectors, all, index, lanes_of) for the values from `first` to `last`: for groups of
// vectors, `all` of whose lanes are present if they are `whole` (kLarge of them then) or
// real_at(index) says so, then for what is left; and none(index) for a group without a real one.
template <class T, int kLarge, class RealAt, class Lanes, class Body, class None>
MILKERNELS_INLINE void walk_groups(int64_t first, int64_t last, bool whole, const RealAt& real_at,
                                   const Lanes& lanes_at, const Body& body, const None& none) {
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kGroupStep = kGroup<T> * kStep;
  constexpr auto kMany = std::integral_constant<int, kGroup<T>>();
  constexpr auto kOne = std::integral_constant<int, 1>();
  const auto all = [](int)
                       MILKERNELS_INLINE_LAMBDA { return PresentLanes<T>{every_lane<T>(), kStep}; };
  int64_t index = first;
  if (whole) {
    if constexpr (kLarge > kGroup<T>)
      for (; index + kLarge * kStep <= last; index += kLarge * kStep)
        body(std::integral_constant<int, kLarge>(), std::true_type(), index, all);
    for (; index + kGroupStep <= last; index += kGroupStep)
      body(kMany, std::true_type(), index, all);
  }
  const auto some = [&](int k) MILKERNELS_INLINE_LAMBDA {
    const int64_t here = index + k * kStep;
    const int64_t rest = here < last ? last - here : 0;
    return lanes_at(here, rest < kStep ? rest : kStep);
  };
  for (; index + (kGroup<T> - 1) * kStep < last; index += kGroupStep) {
    const Real real = index + kGroupStep <= last ? real_at(index) : Real::kSome;
    if (real == Real::kAll)
      body(kMany, std::true_type(), index, all);
    else if (real == Real::kSome)
      body(kMany, std::false_type(), index, some);
    else
      none(index);
  }
  if constexpr (kGroup<T> > 1)
    for (; index < last; index += kStep) body(kOne, std::false_type(), index, some);
}

// Frames `first` to `last` of a contiguous row.
template <class T, int kLarge, class Body, class None>
MILKERNELS_INLINE void walk_row(const Problem& problem, const uint8_t* mask, int64_t first,
                                int64_t last, const Body& body, const None& none) {
  const bool contiguous = mask != nullptr && problem.mask_stride_frame == 1;
  const auto real_at = [&](int64_t frame) MILKERNELS_INLINE_LAMBDA {
    return contiguous ? real_of_flags<kGroup<T> * kLanes<T>>(mask + frame) : Real::kSome;
  };
  const auto lanes_at = [&](int64_t frame, int64_t count) MILKERNELS_INLINE_LAMBDA {
    return PresentLanes<T>{real_lanes<T>(problem, mask, frame, count), count};
  };
  walk_groups<T, kLarge>(first, last, mask == nullptr, real_at, lanes_at, body, none);
}

// As many contiguous classes, all of a real frame, or frames, all of them real.
template <class T, int kLarge, class Body>
MILKERNELS_INLINE void walk_classes(int64_t classes, const Body& body) {
  const auto lanes_at = [](int64_t, int64_t count) MILKERNELS_INLINE_LAMBDA {
    return PresentLanes<T>{every_lane<T>(), count};
  };
  const auto real_at = [](int64_t) MILKERNELS_INLINE_LAMBDA { return Real::kSome; };
  walk_groups<T, kLarge>(0, classes, true, real_at, lanes_at, body, [](int64_t) {});
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
