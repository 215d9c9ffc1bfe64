// What a frame of statistics pooling sends back to its channels and its scores: what the walks of
// the backward pass share.
#pragma once

#include <vector>

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

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
