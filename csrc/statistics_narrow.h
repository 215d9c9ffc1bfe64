// Statistics pooling where each channel is a head. Contiguous channels: a lane is a head.
// Contiguous frames are transposed for that, forward, a block of them at a time; their gradients,
// which nothing sums, are walked as they lie.
#pragma once

#include <vector>

#include "statistics_moments.h"
#include "statistics_scores.h"
#include "statistics_slopes.h"
#include "transpose.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Whether rows of contiguous frames are transposed.
template <class E>
bool transposes_narrow_rows(const StatisticsProblem& problem) {
  return kTransposes<E> && problem.frames_contiguous && width_of(problem) == 1 &&
         fills_lanes<E>(problem.classes);
}

// Tasks that share the heads of a bag's frames, which may take them by vectors.
template <class T>
int64_t tasks_of_heads(const StatisticsProblem& problem, bool by_vectors) {
  if (!problem.frames_contiguous) return 1;
  return by_vectors ? tasks_of(problem.heads, kLanes<T>) : problem.heads;
}

// A row's scores.
template <class E, bool kQuery>
inline Vector<Arithmetic<E>> narrow_score(const StatisticsProblem& problem,
                                          const FrameRows<E>& rows, int64_t row, int64_t bag,
                                          int64_t channel, int64_t count) {
  using T = Arithmetic<E>;
  if constexpr (kQuery)
    return load_lanes(query_of<T>(problem, channel), count) *
           load_lanes(rows.h[row] + channel, count);
  const E* scores = at<E>(problem.scores, bag, channel, rows.frame[row]);
  prefetch(scores + kBlockRows * problem.scores.stride_frame);
  return load_lanes(scores, count);
}

// The weights of a vector of heads, and the moments of their channels.
template <class T>
struct NarrowSums {
  Weights<T> weights;
  Moment<T> moment;

  // Frames x(k), and their scores, which become weights.
  template <class Value>
  MILKERNELS_INLINE void take(Vector<T>* score, int64_t count, const Value& x) {
    const Vector<T> top = weights.raised(score, nullptr, count);
    const Shares<T> shares = weights.template take<false>(score, nullptr, count, top);
    const auto weight = [&](int64_t k) { return score[k]; };
    moment = merge<T>(moment, moment_of<T>(count, weight, x), shares);
  }

  template <class E>
  void hand_over(const StatisticsProblem& problem, const Segment& segment, int64_t channel) const {
    const int64_t rest = problem.classes - channel;
    const int64_t count = rest < kLanes<T> ? rest : kLanes<T>;
    const Vector<T> total = weights.total.value();
    hand_over_heads<T>(problem, segment, channel, count, weights.peak, total);
    hand_over_channels<E>(problem, segment, channel, count, total, moment);
  }
};

// Contiguous channels.
template <class E, bool kQuery>
void gather_narrow_heads(const StatisticsProblem& problem, const Segment& segment) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  std::vector<NarrowSums<T>> sums(static_cast<size_t>(tasks_of(problem.classes, kStep)));
  FrameRows<E> rows;
  for (int64_t frame = segment.first; frame < segment.last;) {
    frame = rows.fill(problem, segment.bag, frame, segment.last);
    for (int64_t channel = 0; channel < problem.classes; channel += kStep) {
      const int64_t rest = problem.classes - channel;
      const int64_t count = rest < kStep ? rest : kStep;
      Vector<T> score[kBlockRows];
      for (int64_t row = 0; row < rows.count; ++row)
        score[row] = narrow_score<E, kQuery>(problem, rows, row, segment.bag, channel, count);
      rows.fetch_next(problem, channel);
      sums[static_cast<size_t>(channel / kStep)].take(
          score, rows.count, [&](int64_t row) { return load_lanes(rows.h[row] + channel, count); });
    }
  }
  for (int64_t channel = 0; channel < problem.classes; channel += kStep)
    sums[static_cast<size_t>(channel / kStep)].template hand_over<E>(problem, segment, channel);
}

// A block of contiguous frames of a vector of channels, transposed.
template <class E>
struct NarrowBlock {
  static constexpr int64_t kStep = kLanes<E>;
  Stretch frames;
  alignas(64) E h[kBlockRows * kStep];
  alignas(64) E scores[kBlockRows * kStep];

  template <bool kQuery>
  NarrowBlock(const StatisticsProblem& problem, int64_t bag, int64_t channel, int64_t first,
              int64_t last, std::bool_constant<kQuery>)
      : frames{bag, channel, problem.classes, 0, first, last} {
    if (channel + kStep < problem.classes) frames.class_end = channel + kStep;
    if (first + kBlockRows < last) frames.last = first + kBlockRows;
    fill(problem.h, last, h);
    if constexpr (!kQuery) fill(problem.scores, last, scores);
  }

  int64_t count() const { return frames.last - frames.first; }

 private:
  // While a block is transposed the one after it is fetched: the next frames of the same rows, and
  // after their last ones the next rows. Of short rows all are fetched while those before them are
  // transposed.
  void fill(const FrameTensor& from, int64_t last, E* to) const {
    const int64_t rows = kStep * from.stride_class;
    const bool is_last = frames.last == last;
    const int64_t next = last <= kShortRow ? rows : is_last ? rows - frames.first : kBlockRows;
    transpose_rows<E>(from, frames, next, to);
  }
};

// Contiguous frames.
template <class E, bool kQuery>
void gather_narrow_rows(const StatisticsProblem& problem, const Segment& segment, int64_t channel) {
  using T = Arithmetic<E>;
  if constexpr (kTransposes<E>) {
    constexpr int64_t kStep = kLanes<T>;
    const int64_t rest = problem.classes - channel;
    const int64_t channels = rest < kStep ? rest : kStep;
    NarrowSums<T> sums;
    for (int64_t first = segment.first; first < segment.last; first += kBlockRows) {
      NarrowBlock<E> block(problem, segment.bag, channel, first, segment.last,
                           std::bool_constant<kQuery>());
      const int64_t count = keep_real(problem, block.frames, block.h);
      if constexpr (!kQuery) keep_real(problem, block.frames, block.scores);
      const auto x = [&](int64_t row) { return load(block.h + row * kStep); };
      Vector<T> score[kBlockRows];
      for (int64_t row = 0; row < count; ++row) {
        if constexpr (kQuery)
          score[row] = load_lanes(query_of<T>(problem, channel), channels) * x(row);
        else
          score[row] = load(block.scores + row * kStep);
      }
      sums.take(score, count, x);
    }
    sums.template hand_over<E>(problem, segment, channel);
  }
}

// What the gradients of a vector of channels are made of.
template <class T>
struct NarrowSlopes {
  Vector<T> mean, lost, direct, curve, variance, peak, total;

  NarrowSlopes(const StatisticsProblem& problem, int64_t bag, int64_t channel, int64_t count,
               const Slopes<T>& slopes)
      : mean(load_lanes(slopes.mean, count)),
        lost(load_lanes(slopes.lost, count)),
        direct(load_lanes(slopes.direct, count)),
        curve(load_lanes(slopes.curve, count)),
        variance(load_lanes(slopes.variance, count)),
        peak(load_lanes(normaliser_row<T>(problem, kPeak, bag) + channel, count)),
        total(load_lanes(normaliser_row<T>(problem, kTotal, bag) + channel, count)) {}

  // One channel's in every lane.
  NarrowSlopes of_lane(int64_t lane) const {
    NarrowSlopes result = *this;
    for (Vector<T>* row : {&result.mean, &result.lost, &result.direct, &result.curve,
                           &result.variance, &result.peak, &result.total})
      *row = broadcast((*row)[lane]);
    return result;
  }

  MILKERNELS_INLINE Vector<T> residual(Vector<T> x) const { return (x - mean) - lost; }

  // Scores of frames x(k) become weights, and to_score their gradients.
  template <class Value>
  MILKERNELS_INLINE void differentiate_all(Vector<T>* score, Vector<T>* to_score,
                                           const Integer<T>* real, int64_t count,
                                           const Value& x) const {
    for (int64_t k = 0; k < count; ++k)
      to_score[k] = score_term<T>(residual(x(k)), direct, curve, variance);
    differentiate<T>(score, to_score, real, count, peak, total);
  }
};

// Contiguous channels.
template <class E, bool kQuery>
void scatter_narrow_heads(const StatisticsProblem& problem, const Part& part) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const SlopesOf<E> all(problem, part.bag, 0, problem.classes);
  T* to_query = clear_query_part<T>(problem, part);
  clear_masked<E>(problem, part);
  FrameRows<E> rows;
  for (int64_t frame = part.first; frame < part.last;) {
    frame = rows.fill(problem, part.bag, frame, part.last);
    for (int64_t channel = 0; channel < problem.classes; channel += kStep) {
      const int64_t rest = problem.classes - channel;
      const int64_t count = rest < kStep ? rest : kStep;
      const NarrowSlopes<T> slopes(problem, part.bag, channel, count, all.slopes.from(channel));
      Vector<T> weight[kBlockRows];
      Vector<T> to_score[kBlockRows];
      Integer<T> real[kBlockRows];
      for (int64_t row = 0; row < rows.count; ++row) {
        real[row] = first_lanes<T>(count);
        weight[row] = narrow_score<E, kQuery>(problem, rows, row, part.bag, channel, count);
      }
      slopes.differentiate_all(weight, to_score, real, rows.count, [&](int64_t row) {
        return load_lanes(rows.h[row] + channel, count);
      });
      if (problem.scores_gradient.data != nullptr)
        for (int64_t row = 0; row < rows.count; ++row)
          store_lanes(at_mutable<E>(problem.scores_gradient, part.bag, channel, rows.frame[row]),
                      to_score[row], count);
      scatter_rows<E, kQuery>(
          problem, rows, part, channel, count, all.slopes, [&](int64_t row) { return weight[row]; },
          [&](int64_t row) { return to_score[row]; }, to_query);
    }
  }
}

// A row of contiguous frames, and what it adds to its query's gradient.
template <class E, bool kQuery, bool kMasked>
Arithmetic<E> scatter_narrow_row(const StatisticsProblem& problem, const Part& part,
                                 int64_t channel, const NarrowSlopes<Arithmetic<E>>& slopes) {
  using T = Arithmetic<E>;
  const uint8_t* mask = mask_row(problem, part.bag);
  const auto row_of = [&](const FrameTensor& tensor) {
    return tensor.data == nullptr ? nullptr : at_mutable<E>(tensor, part.bag, channel, 0);
  };
  const E* h = row_of(problem.h);
  const E* scores = row_of(problem.scores);
  E* h_gradient = row_of(problem.h_gradient);
  E* scores_gradient = row_of(problem.scores_gradient);
  Vector<T> query{};
  // Scores without an element have no address, either.
  if (kQuery && part.first < part.last) query = broadcast(*query_of<T>(problem, channel));
  Vector<T> to_query{};
  for (int64_t frame = part.first, next; frame < part.last; frame = next) {
    const FrameBlock<E> block(problem, mask, frame, part.last);
    next = block.next();
    const auto x = [&](int64_t k) { return block.template load<kMasked>(h, static_cast<int>(k)); };
    Vector<T> weight[kBlockVectors];
    Vector<T> to_score[kBlockVectors];
    for (int k = 0; k < block.vectors; ++k)
      weight[k] = kQuery ? query * x(k) : block.template load<kMasked>(scores, k);
    slopes.differentiate_all(weight, to_score, block.real, block.vectors, x);
    for (int k = 0; k < block.vectors; ++k) {
      const Vector<T> residual = slopes.residual(x(k));
      if (h_gradient != nullptr) {
        Vector<T> gradient = weight[k] * multiply_add(slopes.curve, residual, slopes.direct);
        if constexpr (kQuery) gradient = multiply_add(to_score[k], query, gradient);
        if constexpr (kMasked) gradient = block.real[k] ? gradient : Vector<T>{};
        block.store(h_gradient, k, gradient);
      }
      if (scores_gradient != nullptr) block.store(scores_gradient, k, to_score[k]);
      if constexpr (kQuery) to_query = multiply_add(to_score[k], residual, to_query);
    }
  }
  return sum_of_lanes<T>(to_query);
}

// A vector of channels, each such a row.
template <class E, bool kQuery>
void scatter_narrow_rows(const StatisticsProblem& problem, const Part& part, int64_t channel) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t rest = problem.classes - channel;
  const int64_t count = rest < kStep ? rest : kStep;
  const SlopesOf<E> all(problem, part.bag, channel, count);
  const NarrowSlopes<T> slopes(problem, part.bag, channel, count, all.slopes);
  for (int64_t lane = 0; lane < count; ++lane) {
    const NarrowSlopes<T> own = slopes.of_lane(lane);
    const T to_query =
        problem.mask == nullptr
            ? scatter_narrow_row<E, kQuery, false>(problem, part, channel + lane, own)
            : scatter_narrow_row<E, kQuery, true>(problem, part, channel + lane, own);
    if (problem.query_gradient != nullptr) *query_part<T>(problem, part, channel + lane) = to_query;
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
