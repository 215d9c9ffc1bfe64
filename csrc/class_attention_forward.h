// Attention whose scores are normalised over the classes, forward: sums over each segment of a
// bag's frames, joined in order.
#pragma once

#include "class_attention.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Rows of a segment's sums (rows, classes): of weights and of weight · x, and the bounds of x.
enum SumRow : int { kWeights, kProducts, kLow, kHigh, kSumRows };

// Lanes' sums over the frames of one row, or of one class.
template <class T>
struct WeighedSums {
  Vector<T> weights{};
  Vector<T> products{};
  Vector<T> low = broadcast(T(__builtin_inf()));
  Vector<T> high = broadcast(T(-__builtin_inf()));

  inline void take(Vector<T> weight, Vector<T> x) {
    weights += weight;
    products = multiply_add(weight, x, products);
    low = minimum(low, x);
    high = maximum(high, x);
  }
};

template <class E>
void sum_rows(const ClassAttentionProblem& problem, int64_t bag, int64_t first, int64_t last,
              double* sums) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const Vector<T> zero{};
  const int64_t block = frames_of_block(problem);
  const int64_t classes = problem.classes;
  Scratch<T> exponentials(classes * block);
  Integer<T> real[kBlockVectors<T>] = {};
  Vector<T> inverse_total[kBlockVectors<T>] = {};
  for (int64_t start = first; start < last; start += block) {
    const int64_t count = last - start < block ? last - start : block;
    real_frames_of_block<T>(problem, bag, start, count, real);
    exponentials_of_block<E>(problem, bag, start, count, block, real, exponentials.at(0),
                             inverse_total);
    for (int64_t index = 0; index < classes; ++index) {
      const E* x = at<E>(problem.x, bag, index, start);
      WeighedSums<T> row;
      for (int64_t v = 0; v * kStep < count; ++v) {
        const int64_t lanes = count - v * kStep < kStep ? count - v * kStep : kStep;
        prefetch(x + v * kStep + kClassesAhead * problem.x.stride_class);
        const Vector<T> loaded = load_lanes(x + v * kStep, lanes);
        const Vector<T> value = value_of<T>(loaded, problem.from_logits).x;
        const Vector<T> exponential = load(exponentials.at(index * block + v * kStep));
        const Vector<T> weight = share_of<T>(exponential, inverse_total[v]).weight;
        row.weights += real[v] ? weight : zero;
        row.products = multiply_add(real[v] ? weight : zero, real[v] ? value : zero, row.products);
        row.low = real[v] ? minimum(row.low, value) : row.low;
        row.high = real[v] ? maximum(row.high, value) : row.high;
      }
      const double low = -largest_lane<T>(-row.low);
      const double high = largest_lane<T>(row.high);
      sums[kWeights * classes + index] += sum_of_lanes<T>(row.weights);
      sums[kProducts * classes + index] += sum_of_lanes<T>(row.products);
      if (low < sums[kLow * classes + index]) sums[kLow * classes + index] = low;
      if (high > sums[kHigh * classes + index]) sums[kHigh * classes + index] = high;
    }
  }
}

// Few contiguous classes, a block of frames after the other.
template <class E>
void sum_turned(const ClassAttentionProblem& problem, int64_t bag, int64_t first, int64_t last,
                double* sums) {
  for_blocks(first, last, [&](int64_t from, int64_t to) {
    const TurnedBlock<E> block(problem, bag, from, to);
    sum_rows<E>(block.problem, bag, 0, to - from, sums);
  });
}

// The sums of a vector of classes over all groups of frames so far.
template <class T>
struct ClassSums {
  LongSum<T> weights;
  LongSum<T> products;
  Vector<T> low = broadcast(T(__builtin_inf()));
  Vector<T> high = broadcast(T(-__builtin_inf()));
};

// Frames whose classes are weighed at once.
constexpr int kClassGroup = 8;

template <class E>
void sum_classes(const ClassAttentionProblem& problem, int64_t bag, int64_t first, int64_t last,
                 double* sums) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t classes = problem.classes;
  const int64_t padded = padded_classes<T>(problem);
  const uint8_t* mask = mask_row(problem, bag);
  Scratch<T> exponentials(kClassGroup * padded);
  Scratch<ClassSums<T>> all(padded / kStep);
  for (int64_t block = 0; block < padded / kStep; ++block) all[block] = ClassSums<T>{};
  int64_t frame = first;
  while (frame < last) {
    // Masked frames are passed over whole.
    const E* x[kClassGroup];
    Vector<T> inverse_total[kClassGroup];
    int count = 0;
    for (; frame < last && count < kClassGroup; ++frame) {
      if (mask != nullptr && !mask[frame * problem.mask_stride_frame]) continue;
      x[count] = at<E>(problem.x, bag, 0, frame);
      inverse_total[count] = broadcast(
          exponentials_of_classes<E>(problem, bag, frame, exponentials.at(count * padded)));
      ++count;
    }
    for (int64_t index = 0; index < classes; index += kStep) {
      const int64_t lanes = classes - index < kStep ? classes - index : kStep;
      WeighedSums<T> group;
      for (int k = 0; k < count; ++k) {
        const Vector<T> exponential = load(exponentials.at(k * padded + index));
        prefetch(x[k] + index + kClassGroup * problem.x.stride_frame);
        const Vector<T> loaded = load_lanes(x[k] + index, lanes);
        group.take(share_of<T>(exponential, inverse_total[k]).weight,
                   value_of<T>(loaded, problem.from_logits).x);
      }
      ClassSums<T>& sum = all[index / kStep];
      sum.weights.add(group.weights);
      sum.products.add(group.products);
      sum.low = minimum(sum.low, group.low);
      sum.high = maximum(sum.high, group.high);
    }
  }
  for (int64_t index = 0; index < classes; ++index) {
    const ClassSums<T>& sum = all[index / kStep];
    const int64_t lane = index % kStep;
    sums[kWeights * classes + index] =
        static_cast<double>(sum.weights.sum[lane]) + sum.weights.lost[lane];
    sums[kProducts * classes + index] =
        static_cast<double>(sum.products.sum[lane]) + sum.products.lost[lane];
    sums[kLow * classes + index] = sum.low[lane];
    sums[kHigh * classes + index] = sum.high[lane];
  }
}

// Join a bag's segments, in order, and write its values and statistics.
template <class E>
void finish_bag(const ClassAttentionProblem& problem, int64_t bag, int64_t segments,
                const double* sums) {
  using T = Arithmetic<E>;
  const int64_t classes = problem.classes;
  for (int64_t index = 0; index < classes; ++index) {
    double total = 0;
    double product = 0;
    double low = __builtin_inf();
    double high = -__builtin_inf();
    for (int64_t segment = 0; segment < segments; ++segment) {
      const double* part = sums + segment * kSumRows * classes + index;
      total += part[kWeights * classes];
      product += part[kProducts * classes];
      low = part[kLow * classes] < low ? part[kLow * classes] : low;
      high = part[kHigh * classes] > high ? part[kHigh * classes] : high;
    }
    const bool nothing = total == 0;
    double y = nothing ? 0 : product / total;
    if (!nothing && y < low) y = low;
    if (!nothing && y > high) y = high;
    const int64_t cell = bag * classes + index;
    T* statistics = static_cast<T*>(problem.statistics) + cell;
    // Dividing by infinity takes every frame's gradient to 0.
    statistics[0] = static_cast<T>(nothing ? __builtin_inf() : total);
    statistics[problem.bags * classes] = static_cast<T>(y);
    store_bags<E>(problem, cell, broadcast(static_cast<T>(y)), 1);
  }
}

template <class E>
void class_attention_forward(const ClassAttentionProblem& problem) {
  const int64_t classes = problem.classes;
  const int64_t segments = segments_of_bag(problem);
  const int64_t length = frames_of_segment(problem);
  const int64_t elements = problem.bags * classes * problem.frames;
  const int64_t size = kSumRows * classes;
  Scratch<double> sums(problem.bags * segments * size);
  parallel_for(problem.bags * segments, elements, problem.threads, [&](int64_t task) {
    const int64_t first = task % segments * length;
    const int64_t last = first + length < problem.frames ? first + length : problem.frames;
    double* part = sums.at(task * size);
    for (int64_t index = 0; index < classes; ++index) {
      part[kWeights * classes + index] = 0;
      part[kProducts * classes + index] = 0;
      part[kLow * classes + index] = __builtin_inf();
      part[kHigh * classes + index] = -__builtin_inf();
    }
    if constexpr (kTurns<E>)
      if (turns_classes<E>(problem))
        return sum_turned<E>(problem, task / segments, first, last, part);
    if (problem.frames_contiguous)
      sum_rows<E>(problem, task / segments, first, last, part);
    else
      sum_classes<E>(problem, task / segments, first, last, part);
  });
  parallel_for(problem.bags, elements, problem.threads, [&](int64_t bag) {
    finish_bag<E>(problem, bag, segments, sums.at(bag * segments * size));
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
