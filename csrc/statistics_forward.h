// Statistics pooling, forward: one walk over the frames. A block of them, small enough for the
// cache, is scored, weighed, and taken into the running mean and variance of each channel.
#pragma once

#include <vector>

#include "parallel.h"
#include "statistics_moments.h"
#include "statistics_narrow.h"
#include "statistics_scores.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Hands over a head whose lanes are parts of its bag.
template <class E>
void join_lanes(const StatisticsProblem& problem, const Segment& segment, int64_t head,
                const Weights<Arithmetic<E>>& weights, const KeptMoments<Arithmetic<E>>& kept) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t width = width_of(problem);
  const Vector<T> lane_totals = weights.total.value();
  const Vector<T> total = broadcast(sum_of_lanes<T>(lane_totals));
  const Vector<T> share = lane_totals / divisor_of<T>(total);
  hand_over_heads<T>(problem, segment, head, 1, weights.peak, total);
  for (int64_t start = 0; start < width; start += kStep) {
    const int64_t count = width - start < kStep ? width - start : kStep;
    Vector<T> rows[kStep] = {};
    for (int64_t row = 0; row < count; ++row)
      rows[row] = share * kept.get((start + row) * kStep, kStep).mean;
    Moment<T> joint;
    joint.mean = sums_of_rows<T>(rows);
    Vector<T> spread[kStep] = {};
    for (int64_t row = 0; row < kStep; ++row) rows[row] = Vector<T>{};
    for (int64_t row = 0; row < count; ++row) {
      const Moment<T> moment = kept.get((start + row) * kStep, kStep);
      const Vector<T> distance = (moment.mean - broadcast(joint.mean[row])) + moment.lost;
      rows[row] = share * distance;
      spread[row] = share * multiply_add(distance, distance, moment.variance);
    }
    joint.lost = sums_of_rows<T>(rows);
    joint.variance = multiply_add(-joint.lost, joint.lost, sums_of_rows<T>(spread));
    hand_over_channels<E>(problem, segment, head * width + start, count, total, joint);
  }
}

// A head whose frames are contiguous: lanes are frames.
template <class E, bool kQuery, bool kMasked>
void gather_head(const StatisticsProblem& problem, const Segment& segment, int64_t head) {
  using T = Arithmetic<E>;
  const int64_t width = width_of(problem);
  const int64_t channel = head * width;
  const int64_t stride = problem.h.stride_class;
  const E* h = at<E>(problem.h, segment.bag, channel, 0);
  const uint8_t* mask = mask_row(problem, segment.bag);
  Weights<T> weights;
  KeptMoments<T> kept(width * kLanes<T>);
  for (int64_t frame = segment.first, next; frame < segment.last; frame = next) {
    const FrameBlock<E> block(problem, mask, frame, segment.last);
    next = block.next();
    Vector<T> weight[kBlockVectors] = {};
    add_head<E, kMasked, kQuery, false>(problem, block, segment.bag, head, {}, weight, nullptr);
    const Vector<T> top = weights.raised(weight, block.real, block.vectors);
    const Shares<T> shares = weights.template take<false>(weight, block.real, block.vectors,
                                                          broadcast(largest_lane<T>(top)));
    for (int64_t index = 0; index < width; ++index) {
      const E* row = h + index * stride;
      if constexpr (!kQuery) block.fetch(row + kChannelsAhead * stride);
      const Moment<T> moment = moment_of<T>(
          block.vectors, [&](int64_t k) { return weight[k]; },
          [&](int64_t k) { return block.template load<kMasked>(row, static_cast<int>(k)); });
      kept.take(index * kLanes<T>, kLanes<T>, moment, shares);
    }
  }
  join_lanes<E>(problem, segment, head, weights, kept);
}

// Heads whose channels are contiguous: lanes are channels, and frames where they are weighed.
template <class E, bool kQuery>
void gather_heads(const StatisticsProblem& problem, const Segment& segment) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kVectors = kBlockRows / kStep;
  const int64_t width = width_of(problem);
  KeptMoments<T> kept(problem.classes);
  std::vector<Weights<T>> weights(static_cast<size_t>(problem.heads));
  FrameRows<E> rows;
  for (int64_t frame = segment.first; frame < segment.last;) {
    frame = rows.fill(problem, segment.bag, frame, segment.last);
    for (int64_t head = 0; head < problem.heads; ++head) {
      Vector<T> score[kVectors] = {};
      Integer<T> real[kVectors];
      for (int64_t k = 0; k < kVectors; ++k) real[k] = first_lanes<T>(rows.count - k * kStep);
      add_rows<E, kQuery, false>(problem, rows, segment.bag, head, {}, score, nullptr);
      Weights<T>& sums = weights[static_cast<size_t>(head)];
      const Vector<T> top = sums.raised(score, real, kVectors);
      const Shares<T> shares =
          sums.template take<true>(score, real, kVectors, broadcast(largest_lane<T>(top)));
      T weight[kBlockRows];
      std::memcpy(weight, score, sizeof weight);
      for (int64_t index = 0; index < width; index += kStep) {
        const int64_t count = width - index < kStep ? width - index : kStep;
        const int64_t channel = head * width + index;
        rows.fetch_next(problem, channel);
        const Moment<T> moment = moment_of<T>(
            rows.count, [&](int64_t row) { return broadcast(weight[row]); },
            [&](int64_t row) { return load_lanes(rows.h[row] + channel, count); });
        kept.take(channel, count, moment, shares);
      }
    }
  }
  for (int64_t head = 0; head < problem.heads; ++head) {
    const Weights<T>& sums = weights[static_cast<size_t>(head)];
    const Vector<T> total = sums.total.value();
    hand_over_heads<T>(problem, segment, head, 1, sums.peak, total);
    for (int64_t index = 0; index < width; index += kStep) {
      const int64_t count = width - index < kStep ? width - index : kStep;
      const Moment<T> moment = kept.get(head * width + index, count);
      hand_over_channels<E>(problem, segment, head * width + index, count, total, moment);
    }
  }
}

// A head's segments together, in order; in float64, as there may be many.
template <class E>
void merge_segments(const StatisticsProblem& problem, int64_t segments, int64_t bag, int64_t head) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t width = width_of(problem);
  double peak = double(kLowest);
  double total = 0;
  std::vector<double> share(static_cast<size_t>(segments));
  for (int64_t number = 0; number < segments; ++number) {
    const double other = segment_state<T>(problem, number, bag).peak[head];
    peak = other > peak ? other : peak;
  }
  for (int64_t number = 0; number < segments; ++number) {
    const SegmentState<T> state = segment_state<T>(problem, number, bag);
    double& weight = share[static_cast<size_t>(number)];
    weight = state.total[head] * std::exp2(state.peak[head] - peak);
    total += weight;
  }
  for (double& weight : share) weight /= total == 0 ? 1 : total;
  const Vector<T> totals = broadcast(static_cast<T>(total));
  write_normaliser<T>(problem, bag, head, 1, broadcast(static_cast<T>(peak)), totals);
  for (int64_t index = 0; index < width; index += kStep) {
    const int64_t count = width - index < kStep ? width - index : kStep;
    Moment<T> joint;
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t channel = head * width + index + lane;
      double mean = 0;
      for (int64_t number = 0; number < segments; ++number) {
        const SegmentState<T> state = segment_state<T>(problem, number, bag);
        mean += share[static_cast<size_t>(number)] *
                (double(state.mean[channel]) + double(state.lost[channel]));
      }
      double variance = 0;
      for (int64_t number = 0; number < segments; ++number) {
        const SegmentState<T> state = segment_state<T>(problem, number, bag);
        const double distance = (state.mean[channel] - mean) + state.lost[channel];
        variance +=
            share[static_cast<size_t>(number)] * (state.variance[channel] + distance * distance);
      }
      joint.mean[lane] = static_cast<T>(mean);
      joint.lost[lane] = static_cast<T>(mean - joint.mean[lane]);
      joint.variance[lane] = static_cast<T>(variance);
    }
    write_channels<E>(problem, bag, head * width + index, count, totals, joint);
  }
}

template <class E, bool kQuery>
void gather_statistics(const StatisticsProblem& problem) {
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  const int64_t frames = statistics_segment_frames(problem);
  const int64_t segments = tasks_of(problem.frames, frames);
  const bool narrow_rows = transposes_narrow_rows<E>(problem);
  const int64_t heads = tasks_of_heads<Arithmetic<E>>(problem, narrow_rows);
  parallel_for(problem.bags * heads * segments, elements, problem.threads, [&](int64_t task) {
    const int64_t number = task % segments;
    const int64_t first = number * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    const Segment segment{task / segments / heads, number, first, last, segments > 1};
    const int64_t head = task / segments % heads;
    if (narrow_rows)
      gather_narrow_rows<E, kQuery>(problem, segment, head * kLanes<Arithmetic<E>>);
    else if (!problem.frames_contiguous && width_of(problem) == 1)
      gather_narrow_heads<E, kQuery>(problem, segment);
    else if (!problem.frames_contiguous)
      gather_heads<E, kQuery>(problem, segment);
    else if (problem.mask == nullptr)
      gather_head<E, kQuery, false>(problem, segment, head);
    else
      gather_head<E, kQuery, true>(problem, segment, head);
  });
  if (segments == 1) return;
  parallel_for(problem.bags * problem.heads, elements, problem.threads, [&](int64_t task) {
    merge_segments<E>(problem, segments, task / problem.heads, task % problem.heads);
  });
}

template <class E>
void statistics_forward(const StatisticsProblem& problem) {
  if (problem.scores.data == nullptr)
    gather_statistics<E, true>(problem);
  else
    gather_statistics<E, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
