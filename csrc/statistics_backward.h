// Statistics pooling, backward. With a and b the gradients of a channel's mean and deviation, c = b
// / deviation (0 where the variance was floored) and r = h - mean, a frame of weight p gets p (a +
// c r), and its score gets p Σ [a r + c / 2 (r² - variance)] over its head's channels: the frames'
// sum of that is 0 already, so nothing is centred afterwards.
#pragma once

#include <vector>

#include "parallel.h"
#include "statistics_narrow.h"
#include "statistics_scores.h"
#include "statistics_slopes.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// A head whose frames are contiguous: lanes are frames.
template <class E, bool kQuery, bool kMasked>
void scatter_head(const StatisticsProblem& problem, const Part& part, int64_t head) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const Vector<T> zero{};
  const int64_t width = width_of(problem);
  const int64_t channel = head * width;
  const SlopesOf<E> all(problem, part.bag, channel, width);
  const Slopes<T>& slopes = all.slopes;
  const Vector<T> peak = broadcast(normaliser_row<T>(problem, kPeak, part.bag)[head]);
  const Vector<T> total = broadcast(normaliser_row<T>(problem, kTotal, part.bag)[head]);
  const T* query = query_of<T>(problem, channel);
  const uint8_t* mask = mask_row(problem, part.bag);
  const bool learns = problem.query_gradient != nullptr;
  std::vector<T> to_query(static_cast<size_t>(learns ? width * kStep : 0));
  for (int64_t frame = part.first, next; frame < part.last; frame = next) {
    const FrameBlock<E> block(problem, mask, frame, part.last);
    next = block.next();
    Vector<T> weight[kBlockVectors] = {};
    Vector<T> to_score[kBlockVectors] = {};
    add_head<E, kMasked, kQuery, true>(problem, block, part.bag, head, slopes, weight, to_score);
    differentiate<T>(weight, to_score, block.real, block.vectors, peak, total);
    if (problem.scores_gradient.data != nullptr)
      for (int k = 0; k < block.vectors; ++k)
        block.store(at_mutable<E>(problem.scores_gradient, part.bag, head, 0), k, to_score[k]);
    for (int64_t index = 0; index < width; ++index) {
      const E* h = at<E>(problem.h, part.bag, channel + index, 0);
      const Vector<T> mean = broadcast(slopes.mean[index]);
      const Vector<T> lost = broadcast(slopes.lost[index]);
      if (problem.h_gradient.data != nullptr) {
        E* h_gradient = at_mutable<E>(problem.h_gradient, part.bag, channel + index, 0);
        const Vector<T> direct = broadcast(slopes.direct[index]);
        const Vector<T> curve = broadcast(slopes.curve[index]);
        for (int k = 0; k < block.vectors; ++k) {
          const Vector<T> residual = (block.template load<kMasked>(h, k) - mean) - lost;
          Vector<T> gradient = weight[k] * multiply_add(curve, residual, direct);
          if constexpr (kQuery)
            gradient = multiply_add(to_score[k], broadcast(query[index]), gradient);
          if constexpr (kMasked) gradient = block.real[k] ? gradient : zero;
          block.store(h_gradient, k, gradient);
        }
      }
      if (learns) {
        Vector<T> sum{};
        for (int k = 0; k < block.vectors; ++k)
          sum = multiply_add(to_score[k], (block.template load<kMasked>(h, k) - mean) - lost, sum);
        T* kept = to_query.data() + index * kStep;
        store(kept, load(kept) + sum);
      }
    }
  }
  if (!learns) return;
  for (int64_t start = 0; start < width; start += kStep) {
    const int64_t count = width - start < kStep ? width - start : kStep;
    Vector<T> rows[kStep] = {};
    for (int64_t row = 0; row < count; ++row)
      rows[row] = load(&to_query[size_t((start + row) * kStep)]);
    store_lanes(query_part<T>(problem, part, channel + start), sums_of_rows<T>(rows), count);
  }
}

// Heads whose channels are contiguous: lanes are channels, and frames where they are weighed.
template <class E, bool kQuery>
void scatter_heads(const StatisticsProblem& problem, const Part& part) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kVectors = kBlockRows / kStep;
  const int64_t width = width_of(problem);
  const SlopesOf<E> all(problem, part.bag, 0, problem.classes);
  T* to_query = clear_query_part<T>(problem, part);
  clear_masked<E>(problem, part);
  FrameRows<E> rows;
  for (int64_t frame = part.first; frame < part.last;) {
    frame = rows.fill(problem, part.bag, frame, part.last);
    for (int64_t head = 0; head < problem.heads; ++head) {
      Vector<T> weights[kVectors] = {};
      Vector<T> terms[kVectors] = {};
      Integer<T> real[kVectors];
      for (int64_t k = 0; k < kVectors; ++k) real[k] = first_lanes<T>(rows.count - k * kStep);
      add_rows<E, kQuery, true>(problem, rows, part.bag, head, all.slopes.from(head * width),
                                weights, terms);
      differentiate<T>(weights, terms, real, kVectors,
                       broadcast(normaliser_row<T>(problem, kPeak, part.bag)[head]),
                       broadcast(normaliser_row<T>(problem, kTotal, part.bag)[head]));
      T weight[kBlockRows];
      T to_score[kBlockRows];
      std::memcpy(weight, weights, sizeof weight);
      std::memcpy(to_score, terms, sizeof to_score);
      if (problem.scores_gradient.data != nullptr)
        for (int64_t row = 0; row < rows.count; ++row)
          store_one(at_mutable<E>(problem.scores_gradient, part.bag, head, rows.frame[row]),
                    to_score[row]);
      for (int64_t index = 0; index < width; index += kStep) {
        const int64_t count = width - index < kStep ? width - index : kStep;
        scatter_rows<E, kQuery>(
            problem, rows, part, head * width + index, count, all.slopes,
            [&](int64_t row) { return broadcast(weight[row]); },
            [&](int64_t row) { return broadcast(to_score[row]); }, to_query);
      }
    }
  }
}

// The query's gradient: the shares of the parts and bags, in order.
template <class T>
void sum_query_parts(const StatisticsProblem& problem, int64_t parts) {
  constexpr int64_t kStep = kLanes<T>;
  const int64_t rows = parts * problem.bags;
  const int64_t blocks = (problem.classes + kStep - 1) / kStep;
  parallel_for(blocks, rows * problem.classes, problem.threads, [&](int64_t block) {
    const int64_t channel = block * kStep;
    const int64_t count = problem.classes - channel < kStep ? problem.classes - channel : kStep;
    LongSum<T> sum;
    for (int64_t row = 0; row < rows; ++row)
      sum.add(load_lanes(static_cast<const T*>(problem.scratch) + row * problem.classes + channel,
                         count));
    store_lanes(static_cast<T*>(problem.query_gradient) + channel, sum.value(), count);
  });
}

template <class E, bool kQuery>
void scatter_statistics(const StatisticsProblem& problem) {
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  const int64_t frames = statistics_part_frames(problem);
  const int64_t parts = tasks_of(problem.frames, frames);
  const bool narrow_rows = problem.frames_contiguous && width_of(problem) == 1;
  const int64_t heads = tasks_of_heads<Arithmetic<E>>(problem, narrow_rows);
  parallel_for(problem.bags * heads * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t number = task % parts;
    const int64_t first = number * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    const Part part{task / parts / heads, number, first, last};
    const int64_t head = task / parts % heads;
    if (narrow_rows)
      scatter_narrow_rows<E, kQuery>(problem, part, head * kLanes<Arithmetic<E>>);
    else if (!problem.frames_contiguous && width_of(problem) == 1)
      scatter_narrow_heads<E, kQuery>(problem, part);
    else if (!problem.frames_contiguous)
      scatter_heads<E, kQuery>(problem, part);
    else if (problem.mask == nullptr)
      scatter_head<E, kQuery, false>(problem, part, head);
    else
      scatter_head<E, kQuery, true>(problem, part, head);
  });
  if (problem.query_gradient != nullptr) sum_query_parts<Arithmetic<E>>(problem, parts);
}

template <class E>
void statistics_backward(const StatisticsProblem& problem) {
  if (problem.scores.data == nullptr)
    scatter_statistics<E, true>(problem);
  else
    scatter_statistics<E, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
