// Attention whose scores are normalised over the classes, backward: frame by frame, the softmax
// again and then both gradients. With p a class's share, W its bag's sum of weights, r = x - y and
// q = g r / W (0 where p was clamped): dx = g w / W and ds = a'(s) p (q - Σ_c p q).
#pragma once

#include "class_attention.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// g / W and y of one vector's cells.
template <class T>
struct AttentionConstants {
  Vector<T> scale;
  Vector<T> y;
};

template <class E>
inline AttentionConstants<Arithmetic<E>> attention_constants(const ClassAttentionProblem& problem,
                                                             int64_t cell, int64_t count) {
  using T = Arithmetic<E>;
  const T* total = static_cast<const T*>(problem.statistics) + cell;
  const Vector<T> gradient = bag_gradients<E>(problem, cell, count);
  return {gradient / load_lanes(total, count),
          load_lanes(total + problem.bags * problem.classes, count)};
}

// What a frame's weight sends back: to x, and to the share before its clamp.
template <class T>
struct Returned {
  Vector<T> share;
  Vector<T> to_x;
  Vector<T> to_share;
};

template <class T>
inline Returned<T> send_back(const AttentionConstants<T>& constants, Vector<T> raw,
                             bool from_logits, Vector<T> exponential, Vector<T> inverse_total) {
  const Value<T> value = value_of<T>(raw, from_logits);
  const Share<T> at = share_of<T>(exponential, inverse_total);
  const Vector<T> to_share = constants.scale * (value.x - constants.y);
  return {at.share, constants.scale * at.weight * value.slope,
          at.share >= broadcast(T(kShareFloor)) ? to_share : Vector<T>{}};
}

// All classes of one frame.
template <class E>
void scatter_frame(const ClassAttentionProblem& problem, int64_t bag, int64_t frame,
                   Arithmetic<E>* shares, Arithmetic<E>* returned) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t classes = problem.classes;
  const bool to_x = problem.x_gradient.data != nullptr;
  const bool to_scores = problem.scores_gradient.data != nullptr;
  E* x_gradient = to_x ? at_mutable<E>(problem.x_gradient, bag, 0, frame) : nullptr;
  E* scores_gradient = to_scores ? at_mutable<E>(problem.scores_gradient, bag, 0, frame) : nullptr;
  const uint8_t* mask = mask_row(problem, bag);
  if (mask != nullptr && !mask[frame * problem.mask_stride_frame]) {
    const size_t bytes = static_cast<size_t>(classes) * sizeof(E);
    if (to_x) std::memset(x_gradient, 0, bytes);
    if (to_scores) std::memset(scores_gradient, 0, bytes);
    return;
  }
  const E* x = at<E>(problem.x, bag, 0, frame);
  const Vector<T> inverse_total =
      broadcast(exponentials_of_classes<E>(problem, bag, frame, shares));
  Vector<T> mixed{};
  for (int64_t index = 0; index < classes; index += kStep) {
    const int64_t count = classes - index < kStep ? classes - index : kStep;
    const auto constants = attention_constants<E>(problem, bag * classes + index, count);
    prefetch(x + index + kFramesAhead * problem.x.stride_frame);
    const Returned<T> back = send_back<T>(constants, load_lanes(x + index, count),
                                          problem.from_logits, load(shares + index), inverse_total);
    if (to_x) store_lanes(x_gradient + index, back.to_x, count);
    store(shares + index, back.share);
    store(returned + index, back.to_share);
    const Vector<T> product = back.share * back.to_share;
    mixed += count == kStep ? product : first_lanes<T>(count) ? product : Vector<T>{};
  }
  if (!to_scores) return;
  const Vector<T> dot = broadcast(sum_of_lanes<T>(mixed));
  const E* scores = at<E>(problem.scores, bag, 0, frame);
  for (int64_t index = 0; index < classes; index += kStep) {
    const int64_t count = classes - index < kStep ? classes - index : kStep;
    const Vector<T> slope =
        activation_derivative<T>(load_lanes(scores + index, count), problem.activation);
    const Vector<T> gradient = slope * load(shares + index) * (load(returned + index) - dot);
    store_lanes(scores_gradient + index, gradient, count);
  }
}

// All classes of a block of frames that lie side by side.
template <class E>
void scatter_block(const ClassAttentionProblem& problem, int64_t bag, int64_t first, int64_t count,
                   int64_t block, Arithmetic<E>* shares, Arithmetic<E>* returned) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const Vector<T> zero{};
  const bool to_x = problem.x_gradient.data != nullptr;
  const bool to_scores = problem.scores_gradient.data != nullptr;
  Integer<T> real[kBlockVectors<T>] = {};
  Vector<T> inverse_total[kBlockVectors<T>] = {};
  Vector<T> dot[kBlockVectors<T>];
  real_frames_of_block<T>(problem, bag, first, count, real);
  exponentials_of_block<E>(problem, bag, first, count, block, real, shares, inverse_total);
  for (int64_t v = 0; v * kStep < count; ++v) dot[v] = zero;
  for (int64_t index = 0; index < problem.classes; ++index) {
    const auto one = attention_constants<E>(problem, bag * problem.classes + index, 1);
    const AttentionConstants<T> constants{broadcast(one.scale[0]), broadcast(one.y[0])};
    const E* x = at<E>(problem.x, bag, index, first);
    E* x_gradient = to_x ? at_mutable<E>(problem.x_gradient, bag, index, first) : nullptr;
    for (int64_t v = 0; v * kStep < count; ++v) {
      const int64_t lanes = count - v * kStep < kStep ? count - v * kStep : kStep;
      const int64_t slot = index * block + v * kStep;
      prefetch(x + v * kStep + kClassesAhead * problem.x.stride_class);
      const Returned<T> back =
          send_back<T>(constants, load_lanes(x + v * kStep, lanes), problem.from_logits,
                       load(shares + slot), inverse_total[v]);
      if (to_x) store_lanes(x_gradient + v * kStep, real[v] ? back.to_x : zero, lanes);
      store(shares + slot, back.share);
      store(returned + slot, back.to_share);
      dot[v] = multiply_add(back.share, back.to_share, dot[v]);
    }
  }
  if (!to_scores) return;
  for (int64_t index = 0; index < problem.classes; ++index) {
    const E* scores = at<E>(problem.scores, bag, index, first);
    E* scores_gradient = at_mutable<E>(problem.scores_gradient, bag, index, first);
    for (int64_t v = 0; v * kStep < count; ++v) {
      const int64_t lanes = count - v * kStep < kStep ? count - v * kStep : kStep;
      const int64_t slot = index * block + v * kStep;
      const Vector<T> slope =
          activation_derivative<T>(load_lanes(scores + v * kStep, lanes), problem.activation);
      const Vector<T> gradient = slope * load(shares + slot) * (load(returned + slot) - dot[v]);
      store_lanes(scores_gradient + v * kStep, real[v] ? gradient : zero, lanes);
    }
  }
}

// Few contiguous classes, a block of frames after the other.
template <class E>
void scatter_turned(const ClassAttentionProblem& problem, int64_t bag, int64_t first, int64_t last,
                    Arithmetic<E>* shares, Arithmetic<E>* returned) {
  ClassBlock<E> x_gradient;
  ClassBlock<E> scores_gradient;
  for_blocks(first, last, [&](int64_t from, int64_t to) {
    TurnedBlock<E> block(problem, bag, from, to);
    const auto turned = [](const FrameTensor& gradient, ClassBlock<E>& rows) {
      return gradient.data != nullptr ? rows.rows() : FrameTensor{};
    };
    block.problem.x_gradient = turned(problem.x_gradient, x_gradient);
    block.problem.scores_gradient = turned(problem.scores_gradient, scores_gradient);
    scatter_block<E>(block.problem, bag, 0, to - from, kBlockFrames, shares, returned);
    if (problem.x_gradient.data != nullptr)
      turn_back(problem, x_gradient, bag, from, to, problem.x_gradient);
    if (problem.scores_gradient.data != nullptr)
      turn_back(problem, scores_gradient, bag, from, to, problem.scores_gradient);
  });
}

template <class E>
void class_attention_backward(const ClassAttentionProblem& problem) {
  using T = Arithmetic<E>;
  const int64_t segments = segments_of_bag(problem);
  const int64_t length = frames_of_segment(problem);
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(problem.bags * segments, elements, problem.threads, [&](int64_t task) {
    const int64_t bag = task / segments;
    const int64_t first = task % segments * length;
    const int64_t last = first + length < problem.frames ? first + length : problem.frames;
    const bool turned = turns_classes<E>(problem);
    const int64_t block = problem.frames_contiguous || turned ? frames_of_block(problem) : 1;
    const int64_t values = block > 1 ? problem.classes * block : padded_classes<T>(problem);
    Scratch<T> shares(values);
    Scratch<T> returned(values);
    if constexpr (kTurns<E>)
      if (turned) return scatter_turned<E>(problem, bag, first, last, shares.at(0), returned.at(0));
    for (int64_t frame = first; frame < last; frame += block) {
      const int64_t count = last - frame < block ? last - frame : block;
      if (problem.frames_contiguous)
        scatter_block<E>(problem, bag, frame, count, block, shares.at(0), returned.at(0));
      else
        scatter_frame<E>(problem, bag, frame, shares.at(0), returned.at(0));
    }
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
