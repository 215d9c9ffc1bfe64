// Statistics pooling, backward. With a and b the gradients of a channel's mean and deviation, c = b
// / deviation (0 where the variance was floored) and r = h - mean, a frame of weight p gets p (a +
// c r), and its score gets p Σ [a r + c / 2 (r² - variance)] over its head's channels: the frames'
// sum of that is 0 already, so nothing is centred afterwards.
#pragma once

#include <vector>

#include "parallel.h"
#include "statistics_scores.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// The slopes of channels, read into memory once for all frames.
template <class E>
class SlopesOf {
 public:
  using T = Arithmetic<E>;

  SlopesOf(const StatisticsProblem& problem, int64_t bag, int64_t first, int64_t channels)
      : values_(static_cast<size_t>(2 * channels)) {
    const int64_t width = width_of(problem);
    const E* gradient = static_cast<const E*>(problem.gradient);
    const T* variance = moments_row<T>(problem, kVariance, bag) + first;
    T* direct = values_.data();
    T* curve = direct + channels;
    slopes = {moments_row<T>(problem, kMean, bag) + first,
              moments_row<T>(problem, kLost, bag) + first, direct, curve, variance};
    const Vector<T> eps = broadcast(static_cast<T>(problem.eps));
    for (int64_t channel = 0, count; channel < channels; channel += count) {
      // As many as lie side by side: of one head.
      const int64_t rest = width - (first + channel) % width;
      count = rest < kLanes<T> ? rest : kLanes<T>;
      const E* from = gradient + output_cell(problem, bag, first + channel);
      const Vector<T> spread = load_lanes(variance + channel, count);
      const Vector<T> to_deviation = load_lanes(from + width, count);
      store_lanes(direct + channel, load_lanes(from, count), count);
      store_lanes(curve + channel, spread > eps ? to_deviation / square_root(spread) : Vector<T>{},
                  count);
    }
  }

  Slopes<T> slopes;

 private:
  std::vector<T> values_;
};

// Frames of a bag that one task writes.
struct Part {
  int64_t bag;
  int64_t number;
  int64_t first;
  int64_t last;
};

// Turns scores into weights and their slopes into the scores' gradients.
template <class T>
inline void differentiate(Vector<T>* score, Vector<T>* term, const Integer<T>* real, int64_t count,
                          Vector<T> peak, Vector<T> total) {
  const Vector<T> zero{};
  for (int64_t k = 0; k < count; ++k) {
    const Vector<T> weight = exponential<T>(score[k], peak) / total;
    score[k] = real[k] ? weight : zero;
    term[k] = real[k] ? weight * term[k] : zero;
  }
}

template <class T>
inline T* query_part(const StatisticsProblem& problem, const Part& part, int64_t channel) {
  return static_cast<T*>(problem.scratch) +
         (part.number * problem.bags + part.bag) * problem.classes + channel;
}

// The part's share of the query's gradient, all 0; null if nothing asks for it.
template <class T>
inline T* clear_query_part(const StatisticsProblem& problem, const Part& part) {
  if (problem.query_gradient == nullptr) return nullptr;
  T* share = query_part<T>(problem, part, 0);
  std::memset(share, 0, static_cast<size_t>(problem.classes) * sizeof(T));
  return share;
}

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

// Zeros for the masked frames of a part whose channels are contiguous.
template <class E>
void clear_masked(const StatisticsProblem& problem, const Part& part) {
  const uint8_t* mask = mask_row(problem, part.bag);
  if (mask == nullptr) return;
  for (int64_t frame = part.first; frame < part.last; ++frame) {
    if (mask[frame * problem.mask_stride_frame]) continue;
    if (problem.h_gradient.data != nullptr)
      std::memset(at_mutable<E>(problem.h_gradient, part.bag, 0, frame), 0,
                  static_cast<size_t>(problem.classes) * sizeof(E));
    if (problem.scores_gradient.data != nullptr)
      for (int64_t head = 0; head < problem.heads; ++head)
        *at_mutable<E>(problem.scores_gradient, part.bag, head, frame) = E{};
  }
}

// Writes the gradients of rows in `count` channels, and adds to the query's.
template <class E, bool kQuery, class Weight, class ToScore>
inline void scatter_rows(const StatisticsProblem& problem, const FrameRows<E>& rows,
                         const Part& part, int64_t channel, int64_t count,
                         const Slopes<Arithmetic<E>>& slopes, const Weight& weight,
                         const ToScore& to_score, Arithmetic<E>* to_query) {
  using T = Arithmetic<E>;
  const Vector<T> mean = load_lanes(slopes.mean + channel, count);
  const Vector<T> lost = load_lanes(slopes.lost + channel, count);
  const Vector<T> direct = load_lanes(slopes.direct + channel, count);
  const Vector<T> curve = load_lanes(slopes.curve + channel, count);
  Vector<T> query{};
  if constexpr (kQuery) query = load_lanes(query_of<T>(problem, channel), count);
  Vector<T> sum{};
  rows.fetch_next(problem, channel);
  const int64_t stride = problem.h_gradient.stride_frame;
  E* h_gradient = problem.h_gradient.data == nullptr
                      ? nullptr
                      : at_mutable<E>(problem.h_gradient, part.bag, channel, 0);
  for (int64_t row = 0; row < rows.count; ++row) {
    const Vector<T> residual = (load_lanes(rows.h[row] + channel, count) - mean) - lost;
    const Vector<T> score_gradient = to_score(row);
    if (h_gradient != nullptr) {
      Vector<T> gradient = weight(row) * multiply_add(curve, residual, direct);
      if constexpr (kQuery) gradient = multiply_add(score_gradient, query, gradient);
      store_lanes(h_gradient + rows.frame[row] * stride, gradient, count);
    }
    sum = multiply_add(score_gradient, residual, sum);
  }
  if (to_query != nullptr)
    store_lanes(to_query + channel, load_lanes(to_query + channel, count) + sum, count);
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

// Heads of one channel each, side by side: a lane is a head.
template <class E, bool kQuery>
void scatter_narrow_heads(const StatisticsProblem& problem, const Part& part) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const SlopesOf<E> all(problem, part.bag, 0, problem.classes);
  const Slopes<T>& slopes = all.slopes;
  T* to_query = clear_query_part<T>(problem, part);
  clear_masked<E>(problem, part);
  FrameRows<E> rows;
  for (int64_t frame = part.first; frame < part.last;) {
    frame = rows.fill(problem, part.bag, frame, part.last);
    for (int64_t channel = 0; channel < problem.classes; channel += kStep) {
      const int64_t rest = problem.classes - channel;
      const int64_t count = rest < kStep ? rest : kStep;
      Vector<T> weight[kBlockRows];
      Vector<T> to_score[kBlockRows];
      Integer<T> real[kBlockRows];
      for (int64_t row = 0; row < rows.count; ++row) {
        real[row] = first_lanes<T>(count);
        weight[row] = narrow_score<E, kQuery>(problem, rows, row, part.bag, channel, count);
        to_score[row] = score_term<T>(
            (load_lanes(rows.h[row] + channel, count) - load_lanes(slopes.mean + channel, count)) -
                load_lanes(slopes.lost + channel, count),
            load_lanes(slopes.direct + channel, count), load_lanes(slopes.curve + channel, count),
            load_lanes(slopes.variance + channel, count));
      }
      differentiate<T>(weight, to_score, real, rows.count,
                       load_lanes(normaliser_row<T>(problem, kPeak, part.bag) + channel, count),
                       load_lanes(normaliser_row<T>(problem, kTotal, part.bag) + channel, count));
      if (problem.scores_gradient.data != nullptr)
        for (int64_t row = 0; row < rows.count; ++row)
          store_lanes(at_mutable<E>(problem.scores_gradient, part.bag, channel, rows.frame[row]),
                      to_score[row], count);
      scatter_rows<E, kQuery>(
          problem, rows, part, channel, count, slopes, [&](int64_t row) { return weight[row]; },
          [&](int64_t row) { return to_score[row]; }, to_query);
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
  const int64_t heads = problem.frames_contiguous ? problem.heads : 1;
  parallel_for(problem.bags * heads * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t number = task % parts;
    const int64_t first = number * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    const Part part{task / parts / heads, number, first, last};
    const int64_t head = task / parts % heads;
    if (!problem.frames_contiguous && width_of(problem) == 1)
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
