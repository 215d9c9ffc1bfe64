// The scores of blocks of frames, and their gradients over the weights: what both directions of
// statistics pooling begin a block with.
#pragma once

#include "statistics.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// What the backward pass needs of some channels: means, and the coefficients of a frame's gradient
// p (direct + curve · residual) and of its score's,
// p Σ (direct · residual + curve / 2 · (residual² - variance)).
template <class T>
struct Slopes {
  const T* mean = nullptr;
  const T* lost = nullptr;
  const T* direct = nullptr;
  const T* curve = nullptr;
  const T* variance = nullptr;

  Slopes from(int64_t channel) const {
    return {mean + channel, lost + channel, direct + channel, curve + channel, variance + channel};
  }
};

// A channel's share of the score's gradient over p.
template <class T>
inline Vector<T> score_term(Vector<T> residual, Vector<T> direct, Vector<T> curve,
                            Vector<T> variance) {
  const Vector<T> spread = multiply_add(residual, residual, -variance);
  return multiply_add(direct, residual, T(0.5) * curve * spread);
}

// Adds what `kCount` channels from the first on give to the scores of a block, and with kTerms to
// their gradients. Without kQuery the scores are given.
template <class E, bool kMasked, bool kQuery, bool kTerms, int kCount>
inline void add_channels(const FrameBlock<E>& block, const E* h, int64_t stride,
                         const Arithmetic<E>* query, const Slopes<Arithmetic<E>>& slopes,
                         Vector<Arithmetic<E>>* score, Vector<Arithmetic<E>>* term) {
  using T = Arithmetic<E>;
  for (int index = 0; index < kCount; ++index) block.fetch(h + (index + kChannelsAhead) * stride);
  for (int k = 0; k < block.vectors; ++k) {
    Vector<T> to_score{};
    Vector<T> to_term{};
    for (int index = 0; index < kCount; ++index) {
      const Vector<T> x = block.template load<kMasked>(h + index * stride, k);
      if constexpr (kQuery) to_score = multiply_add(broadcast(query[index]), x, to_score);
      if constexpr (kTerms)
        to_term +=
            score_term<T>((x - broadcast(slopes.mean[index])) - broadcast(slopes.lost[index]),
                          broadcast(slopes.direct[index]), broadcast(slopes.curve[index]),
                          broadcast(slopes.variance[index]));
    }
    if constexpr (kQuery) score[k] += to_score;
    if constexpr (kTerms) term[k] += to_term;
  }
}

// The same of all channels of a head.
template <class E, bool kMasked, bool kQuery, bool kTerms>
inline void add_head(const StatisticsProblem& problem, const FrameBlock<E>& block, int64_t bag,
                     int64_t head, const Slopes<Arithmetic<E>>& slopes,
                     Vector<Arithmetic<E>>* score, Vector<Arithmetic<E>>* term) {
  using T = Arithmetic<E>;
  constexpr int kTogether = 4;
  const int64_t width = width_of(problem);
  const int64_t stride = problem.h.stride_class;
  const E* h = at<E>(problem.h, bag, head * width, 0);
  const T* query = query_of<T>(problem, head * width);
  if constexpr (!kQuery)
    for (int k = 0; k < block.vectors; ++k)
      score[k] = block.template load<kMasked>(at<E>(problem.scores, bag, head, 0), k);
  if constexpr (!kQuery && !kTerms) return;
  int64_t index = 0;
  for (; index + kTogether <= width; index += kTogether)
    add_channels<E, kMasked, kQuery, kTerms, kTogether>(
        block, h + index * stride, stride, query + index, slopes.from(index), score, term);
  for (; index < width; ++index)
    add_channels<E, kMasked, kQuery, kTerms, 1>(block, h + index * stride, stride, query + index,
                                                slopes.from(index), score, term);
}

// What kCount rows give to a head's scores and, with kTerms, to their gradients, in lanes that are
// still to be summed. Rows together read the slopes once.
template <class E, bool kQuery, bool kTerms, int kCount>
inline void add_some_rows(int64_t width, const E* const* h, int64_t channel,
                          const Arithmetic<E>* query, const Slopes<Arithmetic<E>>& slopes,
                          Vector<Arithmetic<E>>* score, Vector<Arithmetic<E>>* term) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  Vector<T> to_score[kCount] = {};
  Vector<T> to_term[kCount] = {};
  for (int64_t index = 0; index < width; index += kStep) {
    const int64_t count = width - index < kStep ? width - index : kStep;
    const auto of = [&](const T* values) { return load_lanes(values + index, count); };
    MILKERNELS_UNROLL
    for (int row = 0; row < kCount; ++row) {
      const Vector<T> x = load_lanes(h[row] + channel + index, count);
      if constexpr (kQuery) to_score[row] = multiply_add(of(query), x, to_score[row]);
      if constexpr (kTerms)
        to_term[row] += score_term<T>((x - of(slopes.mean)) - of(slopes.lost), of(slopes.direct),
                                      of(slopes.curve), of(slopes.variance));
    }
  }
  for (int row = 0; row < kCount; ++row) {
    score[row] = to_score[row];
    term[row] = to_term[row];
  }
}

// The scores of rows for a head, a lane for each row, and with kTerms their gradients over p.
template <class E, bool kQuery, bool kTerms>
inline void add_rows(const StatisticsProblem& problem, const FrameRows<E>& rows, int64_t bag,
                     int64_t head, const Slopes<Arithmetic<E>>& slopes,
                     Vector<Arithmetic<E>>* score, Vector<Arithmetic<E>>* term) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int kTogether = kRegistersAllow;
  const int64_t width = width_of(problem);
  const int64_t channel = head * width;
  const T* query = query_of<T>(problem, channel);
  if constexpr (!kQuery) rows.load_scores(problem, bag, head, score);
  if constexpr (!kQuery && !kTerms) return;
  for (int64_t start = 0; start < rows.count; start += kStep) {
    const int64_t count = rows.count - start < kStep ? rows.count - start : kStep;
    const E* const* h = rows.h + start;
    Vector<T> scores[kStep] = {};
    Vector<T> terms[kStep] = {};
    int64_t row = 0;
    for (; row + kTogether <= count; row += kTogether)
      add_some_rows<E, kQuery, kTerms, kTogether>(width, h + row, channel, query, slopes,
                                                  scores + row, terms + row);
    for (; row < count; ++row)
      add_some_rows<E, kQuery, kTerms, 1>(width, h + row, channel, query, slopes, scores + row,
                                          terms + row);
    if constexpr (kQuery) score[start / kStep] = sums_of_rows<T>(scores);
    if constexpr (kTerms) term[start / kStep] = sums_of_rows<T>(terms);
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
