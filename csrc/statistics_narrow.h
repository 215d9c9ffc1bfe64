// Statistics pooling where each channel is a head: a lane is a head, whose frames follow one
// another as vectors of channels. Contiguous frames are transposed for it, a block of them at a
// time.
#pragma once

#include <vector>

#include "statistics_moments.h"
#include "statistics_scores.h"
#include "statistics_slopes.h"
#include "transpose.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Whether rows of contiguous frames are walked that way.
template <class E>
bool has_narrow_rows(const StatisticsProblem& problem) {
  return kTransposes<E> && problem.frames_contiguous && width_of(problem) == 1 &&
         fills_lanes<E>(problem.classes);
}

// Tasks that share the heads of a bag's frames.
template <class E>
int64_t tasks_of_heads(const StatisticsProblem& problem) {
  if (!problem.frames_contiguous) return 1;
  return has_narrow_rows<E>(problem) ? tasks_of(problem.heads, kLanes<Arithmetic<E>>)
                                     : problem.heads;
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

// What the slopes of a vector of channels are made of.
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

  MILKERNELS_INLINE Vector<T> residual(Vector<T> x) const { return (x - mean) - lost; }

  // The gradients over the weights of frames x(k), then those, and their scores as weights.
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

// Contiguous frames.
template <class E, bool kQuery>
void scatter_narrow_rows(const StatisticsProblem& problem, const Part& part, int64_t channel) {
  using T = Arithmetic<E>;
  if constexpr (kTransposes<E>) {
    constexpr int64_t kStep = kLanes<T>;
    const int64_t rest = problem.classes - channel;
    const int64_t channels = rest < kStep ? rest : kStep;
    const SlopesOf<E> all(problem, part.bag, channel, channels);
    const NarrowSlopes<T> slopes(problem, part.bag, channel, channels, all.slopes);
    const uint8_t* mask = mask_row(problem, part.bag);
    const Vector<T> zero{};
    Vector<T> query{};
    if constexpr (kQuery) query = load_lanes(query_of<T>(problem, channel), channels);
    LongSum<T> to_query;
    for (int64_t first = part.first; first < part.last; first += kBlockRows) {
      NarrowBlock<E> block(problem, part.bag, channel, first, part.last,
                           std::bool_constant<kQuery>());
      Vector<T> x[kBlockRows];
      Vector<T> weight[kBlockRows];
      Vector<T> to_score[kBlockRows];
      Integer<T> real[kBlockRows];
      for (int64_t row = 0; row < block.count(); ++row) {
        const bool counts = mask == nullptr || mask[(first + row) * problem.mask_stride_frame] != 0;
        real[row] = first_lanes<T>(counts ? channels : 0);
        x[row] = real[row] ? load(block.h + row * kStep) : zero;
        weight[row] = kQuery ? query * x[row] : load(block.scores + row * kStep);
      }
      slopes.differentiate_all(weight, to_score, real, block.count(),
                               [&](int64_t row) { return x[row]; });
      Vector<T> sum{};
      for (int64_t row = 0; row < block.count(); ++row) {
        const Vector<T> residual = slopes.residual(x[row]);
        Vector<T> gradient = weight[row] * multiply_add(slopes.curve, residual, slopes.direct);
        if constexpr (kQuery) gradient = multiply_add(to_score[row], query, gradient);
        sum = multiply_add(to_score[row], residual, sum);
        store(block.h + row * kStep, real[row] ? gradient : zero);
        store(block.scores + row * kStep, to_score[row]);
      }
      to_query.add(sum);
      if (problem.h_gradient.data != nullptr)
        transpose_back(block.h, block.frames, problem.h_gradient);
      if (problem.scores_gradient.data != nullptr)
        transpose_back(block.scores, block.frames, problem.scores_gradient);
    }
    if (problem.query_gradient != nullptr)
      store_lanes(query_part<T>(problem, part, channel), to_query.value(), channels);
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
