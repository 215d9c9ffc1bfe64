// Attention whose scores are normalised over the classes: what both directions share.
//
// Each needs the softmax over the classes of a frame before it can weigh any of them. Classes
// contiguous: a row of classes stays in the first cache while it is passed over. Frames contiguous:
// lanes are frames, and all classes of a block of frames stay in the second cache.
#pragma once

#include "formula.h"
#include "frames.h"
#include "parallel.h"
#include "scratch.h"
#include "turn.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

constexpr double kShareFloor = 1e-7;

// All classes of a block of frames, of at most kBlockFrames, are about this many values.
constexpr int64_t kBlockValues = 65536;

// Frames of a task hold about this many values.
constexpr int64_t kTaskValues = 131072;

template <class T>
constexpr int64_t kBlockVectors = kBlockFrames / kLanes<T>;

// Lines of frames or of classes that are fetched ahead of the one at work.
constexpr int64_t kFramesAhead = 1;
constexpr int64_t kClassesAhead = 16;

// Frames that one block and one task take: of the shape alone, so that results do not depend on the
// number of threads.
inline int64_t frames_of_block(const Problem& problem) {
  constexpr int64_t kLine = 16;
  const int64_t frames = kBlockValues / (problem.classes > 0 ? problem.classes : 1) / kLine * kLine;
  return frames < kLine ? kLine : frames > kBlockFrames ? kBlockFrames : frames;
}

inline int64_t frames_of_segment(const Problem& problem) {
  const int64_t block = frames_of_block(problem);
  const int64_t frames = kTaskValues / (problem.classes > 0 ? problem.classes : 1);
  return frames > block ? frames / block * block : block;
}

inline int64_t segments_of_bag(const Problem& problem) {
  const int64_t frames = frames_of_segment(problem);
  return (problem.frames + frames - 1) / frames;
}

// A frame tensor's values and the 1 - x beside them.
template <class T>
struct Value {
  Vector<T> x;
  Vector<T> slope;
};

// x and dx / d raw.
template <class T>
inline Value<T> value_of(Vector<T> raw, bool from_logits) {
  if (!from_logits) return {raw, broadcast(T(1))};
  const Sigmoid<T> at = sigmoid<T>(raw);
  return {at.value, at.value * at.complement};
}

// A class's share of the softmax out of exp(score - peak), and that clamped: the weight.
template <class T>
struct Share {
  Vector<T> share;
  Vector<T> weight;
};

template <class T>
inline Share<T> share_of(Vector<T> exponential, Vector<T> inverse_total) {
  const Vector<T> floor = broadcast(T(kShareFloor));
  const Vector<T> one = broadcast(T(1));
  const Vector<T> product = exponential * inverse_total;
  const Vector<T> share = product > one ? one : product;
  return {share, share < floor ? floor : share};
}

// exp(a(s) - peak) of all classes of one frame, into `exponentials`, and 1 over their sum.
template <class E>
inline Arithmetic<E> exponentials_of_classes(const ClassAttentionProblem& problem, int64_t bag,
                                             int64_t frame, Arithmetic<E>* exponentials) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const E* scores = at<E>(problem.scores, bag, 0, frame);
  const Vector<T> lowest = broadcast(T(-__builtin_inf()));
  Vector<T> peaks = lowest;
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    prefetch(scores + index + kFramesAhead * problem.scores.stride_frame);
    Vector<T> score = activate<T>(load_lanes(scores + index, count), problem.activation);
    if (count < kStep) score = first_lanes<T>(count) ? score : lowest;
    peaks = maximum(peaks, score);
    store(exponentials + index, score);
  }
  const Vector<T> peak = broadcast(largest_lane<T>(peaks));
  Vector<T> total{};
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const Vector<T> exponential = exp(load(exponentials + index) - peak);
    store(exponentials + index, exponential);
    total += exponential;
  }
  return T(1) / sum_of_lanes<T>(total);
}

// The same of a block of frames, class after class, `block` values apart; masked frames have scores
// of 0.
template <class E>
void exponentials_of_block(const ClassAttentionProblem& problem, int64_t bag, int64_t first,
                           int64_t count, int64_t block, const Integer<Arithmetic<E>>* real,
                           Arithmetic<E>* exponentials, Vector<Arithmetic<E>>* inverse_total) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const Vector<T> zero{};
  Vector<T> peak[kBlockVectors<T>];
  for (int64_t v = 0; v * kStep < count; ++v) {
    peak[v] = broadcast(T(-__builtin_inf()));
    inverse_total[v] = zero;
  }
  for (int64_t index = 0; index < problem.classes; ++index) {
    const E* scores = at<E>(problem.scores, bag, index, first);
    T* row = exponentials + index * block;
    for (int64_t v = 0; v * kStep < count; ++v) {
      const int64_t lanes = count - v * kStep < kStep ? count - v * kStep : kStep;
      prefetch(scores + v * kStep + kClassesAhead * problem.scores.stride_class);
      const Vector<T> loaded = load_lanes(scores + v * kStep, lanes);
      const Vector<T> score = real[v] ? activate<T>(loaded, problem.activation) : zero;
      peak[v] = maximum(peak[v], score);
      store(row + v * kStep, score);
    }
  }
  for (int64_t index = 0; index < problem.classes; ++index) {
    T* row = exponentials + index * block;
    for (int64_t v = 0; v * kStep < count; ++v) {
      const Vector<T> exponential = exp(load(row + v * kStep) - peak[v]);
      store(row + v * kStep, exponential);
      inverse_total[v] += exponential;
    }
  }
  for (int64_t v = 0; v * kStep < count; ++v) inverse_total[v] = T(1) / inverse_total[v];
}

// Which lanes of a block are real frames.
template <class T>
inline void real_frames_of_block(const Problem& problem, int64_t bag, int64_t first, int64_t count,
                                 Integer<T>* real) {
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  for (int64_t v = 0; v * kStep < count; ++v) {
    const int64_t lanes = count - v * kStep < kStep ? count - v * kStep : kStep;
    real[v] = real_lanes<T>(problem, mask, first + v * kStep, lanes);
  }
}

// Up to so many contiguous classes a frame's sum over the lanes of a vector takes longer than
// blocks of frames take to be turned into rows, whose sums are over vectors.
template <class E>
constexpr int64_t kTurnedClasses = kTurns<E> ? 3 * kLanes<Arithmetic<E>> / 2 : 0;

template <class E>
bool turns_classes(const Problem& problem) {
  return !problem.frames_contiguous && problem.classes > 1 && problem.classes <= kTurnedClasses<E>;
}

template <class E>
using ClassBlock = Block<E, kTurnedClasses<E>>;

// Frames `first` to `last` of such a problem as one of their own.
template <class E>
class TurnedBlock {
 public:
  TurnedBlock(const ClassAttentionProblem& whole, int64_t bag, int64_t first, int64_t last)
      : problem(whole) {
    turn(whole, whole.x, bag, first, last, x_);
    turn(whole, whole.scores, bag, first, last, scores_);
    problem.frames = last - first;
    problem.frames_contiguous = true;
    problem.x = x_.rows();
    problem.scores = scores_.rows();
    if (whole.mask != nullptr) problem.mask += first * whole.mask_stride_frame;
  }
  TurnedBlock(const TurnedBlock&) = delete;
  TurnedBlock& operator=(const TurnedBlock&) = delete;

  ClassAttentionProblem problem;

 private:
  ClassBlock<E> x_;
  ClassBlock<E> scores_;
};

// Classes rounded up to whole vectors.
template <class T>
inline int64_t padded_classes(const Problem& problem) {
  return (problem.classes + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
