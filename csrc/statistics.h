// Weighted mean and variance of a head's channels: how parts of a bag are merged, and what is made
// of them. Variances are taken about their own part's mean, so that none of them cancels.
#pragma once

#include "elementary.h"
#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class T>
struct Moment {
  Vector<T> mean{};
  // What rounding took off the mean: gradients depend on it where the spread is small.
  Vector<T> lost{};
  Vector<T> variance{};

  inline Vector<T> value() const { return mean + lost; }
};

// Two parts' shares of their joint weight.
template <class T>
struct Shares {
  Vector<T> here;
  Vector<T> there;
};

// The divisor of weights that sum to `sum`: nothing divides by 0.
template <class T>
inline Vector<T> divisor_of(Vector<T> sum) {
  return sum == Vector<T>{} ? broadcast(T(1)) : sum;
}

template <class T>
inline Shares<T> shares_of(Vector<T> weight, Vector<T> weight_there) {
  const Vector<T> divisor = divisor_of<T>(weight + weight_there);
  return {weight / divisor, weight_there / divisor};
}

// Steps from the weightier mean towards the other: one without weight, however far, moves nothing.
template <class T>
inline Moment<T> merge(const Moment<T>& here, const Moment<T>& there, const Shares<T>& shares) {
  const auto there_leads = shares.there > shares.here;
  const Vector<T> base = there_leads ? there.mean : here.mean;
  const Vector<T> other = there_leads ? here.mean : there.mean;
  const Vector<T> share = there_leads ? shares.here : shares.there;
  const Vector<T> distance = other - base;
  const Vector<T> step = share * distance;
  Moment<T> joint;
  joint.mean = base + step;
  const Vector<T> added = joint.mean - base;
  const Vector<T> base_lost = there_leads ? there.lost : here.lost;
  const Vector<T> lost_distance = (there_leads ? here.lost : there.lost) - base_lost;
  joint.lost = multiply_add(share, lost_distance, base_lost);
  joint.lost += (base - (joint.mean - added)) + (step - added);
  // Rounded once where it is large: many parts are merged.
  const Vector<T> base_variance = there_leads ? there.variance : here.variance;
  const Vector<T> other_variance = there_leads ? here.variance : there.variance;
  // Near means far from 0 are as far apart in what they lost as in what they are.
  const Vector<T> exact_distance = distance + lost_distance;
  const Vector<T> between = shares.here * shares.there * (exact_distance * exact_distance);
  joint.variance = base_variance + multiply_add(share, other_variance - base_variance, between);
  return joint;
}

template <class T, int kDistance>
inline Vector<T> swap_lanes(Vector<T> vector) {
#if defined(__clang__)
  T lanes[kLanes<T>], swapped[kLanes<T>];
  std::memcpy(lanes, &vector, sizeof lanes);
  for (int lane = 0; lane < kLanes<T>; ++lane) swapped[lane] = lanes[lane ^ kDistance];
  std::memcpy(&vector, swapped, sizeof swapped);
  return vector;
#else
  return __builtin_shuffle(vector, lane_numbers<T>() ^ kDistance);
#endif
}

// Lane i is the sum over the lanes of rows[i]; the rows are used up.
template <class T, int kDistance = kLanes<T> / 2>
inline Vector<T> sums_of_rows(Vector<T>* rows) {
  const auto upper = (lane_numbers<T>() & kDistance) != 0;
  for (int row = 0; row < kDistance; ++row) {
    const Vector<T> low = rows[row];
    const Vector<T> high = rows[row + kDistance];
    rows[row] = (upper ? high : low) + swap_lanes<T, kDistance>(upper ? low : high);
  }
  if constexpr (kDistance > 1) return sums_of_rows<T, kDistance / 2>(rows);
  return rows[0];
}

// exp(score) / 2^peak. The constant's second half counts where the scores are large.
template <class T>
inline Vector<T> usual_exponential(Vector<T> score, Vector<T> peak) {
  constexpr T kHigh = T(kLog2E);
  constexpr T kLow = T(kLog2E - double(kHigh));
  Vector<T> relative = multiply_add(score, broadcast(kHigh), -peak);
  if constexpr (kLow != 0) relative = multiply_add(score, broadcast(kLow), relative);
  return exp2(relative);
}

template <class T>
[[gnu::noinline, gnu::cold]] Vector<T> exponential_below_large(Vector<T> score, Vector<T> peak) {
  const Vector<T> large = exp2_below_large<T>(score * T(kLog2E), peak);
  return are_large<T>(peak) ? large : usual_exponential<T>(score, peak);
}

template <class T>
inline Vector<T> exponential(Vector<T> score, Vector<T> peak) {
  if (MILKERNELS_UNLIKELY(any(are_large<T>(peak)))) return exponential_below_large<T>(score, peak);
  return usual_exponential<T>(score, peak);
}

// Rows of a problem's moments.
enum MomentRow : int { kMean, kLost, kVariance };

inline int64_t width_of(const StatisticsProblem& problem) {
  return problem.heads > 0 ? problem.classes / problem.heads : 0;
}

template <class T>
inline const T* query_of(const StatisticsProblem& problem, int64_t channel) {
  return static_cast<const T*>(problem.query) + channel;
}

// Where a head's means begin in (bags, 2 · classes); its deviations follow them.
inline int64_t output_cell(const StatisticsProblem& problem, int64_t bag, int64_t channel) {
  const int64_t width = width_of(problem);
  return bag * 2 * problem.classes + channel / width * 2 * width + channel % width;
}

template <class T>
inline T* moments_row(const StatisticsProblem& problem, int row, int64_t bag) {
  return static_cast<T*>(problem.moments) + (row * problem.bags + bag) * problem.classes;
}

template <class T>
inline T* normaliser_row(const StatisticsProblem& problem, int row, int64_t bag) {
  return static_cast<T*>(problem.normaliser) + (row * problem.bags + bag) * problem.heads;
}

// Peak and total of `count` heads. Dividing by infinity takes the gradients of a bag without weight
// to 0.
template <class T>
inline void write_normaliser(const StatisticsProblem& problem, int64_t bag, int64_t head,
                             int64_t count, Vector<T> peak, Vector<T> total) {
  const auto nothing = total == Vector<T>{};
  const Vector<T> infinity = broadcast(T(__builtin_inf()));
  store_lanes(normaliser_row<T>(problem, kPeak, bag) + head, nothing ? Vector<T>{} : peak, count);
  store_lanes(normaliser_row<T>(problem, kTotal, bag) + head, nothing ? infinity : total, count);
}

// Statistics and results of `count` channels from `channel` on, of one head or of one channel each.
template <class E>
inline void write_channels(const StatisticsProblem& problem, int64_t bag, int64_t channel,
                           int64_t count, Vector<Arithmetic<E>> total,
                           const Moment<Arithmetic<E>>& moment) {
  using T = Arithmetic<E>;
  const auto nothing = total == Vector<T>{};
  const Vector<T> eps = broadcast(static_cast<T>(problem.eps));
  Vector<T> deviation = square_root(moment.variance < eps ? eps : moment.variance);
  deviation = nothing ? Vector<T>{} : deviation;
  store_lanes(moments_row<T>(problem, kMean, bag) + channel, moment.mean, count);
  store_lanes(moments_row<T>(problem, kLost, bag) + channel, moment.lost, count);
  store_lanes(moments_row<T>(problem, kVariance, bag) + channel, moment.variance, count);
  E* y = static_cast<E*>(problem.y) + output_cell(problem, bag, channel);
  const int64_t width = width_of(problem);
  const Vector<T> mean = moment.value();
  if (width > 1) {
    store_lanes(y, mean, count);
    store_lanes(y + width, deviation, count);
    return;
  }
  for (int64_t lane = 0; lane < count; ++lane) {
    store_one(y + 2 * lane, mean[lane]);
    store_one(y + 2 * lane + 1, deviation[lane]);
  }
}

// One segment's state of all bags: peaks and totals (bags, heads), moments (bags, classes).
template <class T>
struct SegmentState {
  T* peak;
  T* total;
  T* mean;
  T* lost;
  T* variance;
};

template <class T>
inline SegmentState<T> segment_state(const StatisticsProblem& problem, int64_t segment,
                                     int64_t bag) {
  const int64_t heads = problem.bags * problem.heads;
  const int64_t channels = problem.bags * problem.classes;
  T* start = static_cast<T*>(problem.scratch) + segment * (2 * heads + 3 * channels);
  T* peak = start + bag * problem.heads;
  T* mean = start + 2 * heads + bag * problem.classes;
  return {peak, peak + heads, mean, mean + channels, mean + 2 * channels};
}

// The frames of a bag that one task gathers.
struct Segment {
  int64_t bag;
  int64_t number;
  int64_t first;
  int64_t last;
  // Whether there are others, to be merged with.
  bool is_part;
};

template <class T>
inline void hand_over_heads(const StatisticsProblem& problem, const Segment& segment, int64_t head,
                            int64_t count, Vector<T> peak, Vector<T> total) {
  if (!segment.is_part) {
    write_normaliser<T>(problem, segment.bag, head, count, peak, total);
    return;
  }
  const SegmentState<T> state = segment_state<T>(problem, segment.number, segment.bag);
  store_lanes(state.peak + head, peak, count);
  store_lanes(state.total + head, total, count);
}

template <class E>
inline void hand_over_channels(const StatisticsProblem& problem, const Segment& segment,
                               int64_t channel, int64_t count, Vector<Arithmetic<E>> total,
                               const Moment<Arithmetic<E>>& moment) {
  if (!segment.is_part) {
    write_channels<E>(problem, segment.bag, channel, count, total, moment);
    return;
  }
  const auto state = segment_state<Arithmetic<E>>(problem, segment.number, segment.bag);
  store_lanes(state.mean + channel, moment.mean, count);
  store_lanes(state.lost + channel, moment.lost, count);
  store_lanes(state.variance + channel, moment.variance, count);
}

// Vectors of frames that are weighed at once where frames are contiguous, and rows where channels
// are.
constexpr int kBlockVectors = 8;
constexpr int64_t kBlockRows = 32;

// Rows of frames that are fetched ahead of the one at work.
constexpr int64_t kChannelsAhead = 16;

// Consecutive frames in lanes.
template <class E>
struct FrameBlock {
  using T = Arithmetic<E>;
  int64_t first;
  int vectors;
  // Lanes of the last vector that hold frames.
  int64_t tail;
  Integer<T> real[kBlockVectors];

  FrameBlock(const Problem& problem, const uint8_t* mask, int64_t from, int64_t last)
      : first(from) {
    const int64_t rest = last - from;
    const int64_t full = kBlockVectors * kLanes<T>;
    const int64_t frames = rest < full ? rest : full;
    vectors = static_cast<int>((frames + kLanes<T> - 1) / kLanes<T>);
    tail = frames - (vectors - 1) * kLanes<T>;
    for (int k = 0; k < vectors; ++k)
      real[k] = real_lanes<T>(problem, mask, first + k * kLanes<T>, lanes(k));
  }

  inline int64_t lanes(int k) const { return k + 1 < vectors ? kLanes<T> : tail; }
  inline int64_t next() const { return first + vectors * kLanes<T>; }

  // The k-th vector of a row of frames; masked frames, which may hold NaN, are 0.
  template <bool kMasked>
  inline Vector<T> load(const E* row, int k) const {
    const Vector<T> x = load_lanes(row + first + k * kLanes<T>, lanes(k));
    if constexpr (kMasked) return real[k] ? x : Vector<T>{};
    return x;
  }
  inline void store(E* row, int k, Vector<T> value) const {
    store_lanes(row + first + k * kLanes<T>, value, lanes(k));
  }
  MILKERNELS_INLINE void fetch(const E* row) const {
    for (int k = 0; k < vectors; ++k) prefetch(row + first + k * kLanes<T>);
  }
};

// Real frames whose channels are contiguous.
template <class E>
struct FrameRows {
  int64_t count = 0;
  int64_t frame[kBlockRows];
  const E* h[kBlockRows];
  int64_t stride = 0;

  // Takes frames from `from` on until the block is full. Returns the frame after them.
  int64_t fill(const StatisticsProblem& problem, int64_t bag, int64_t from, int64_t last) {
    const uint8_t* mask = mask_row(problem, bag);
    stride = problem.h.stride_frame;
    count = 0;
    for (; from < last && count < kBlockRows; ++from) {
      if (mask != nullptr && !mask[from * problem.mask_stride_frame]) continue;
      frame[count] = from;
      h[count++] = at<E>(problem.h, bag, 0, from);
    }
    return from;
  }

  // A vector of channels' share of the next block, in the order of memory.
  MILKERNELS_INLINE void fetch_next(const StatisticsProblem& problem, int64_t channel) const {
    int64_t row = channel * count / problem.classes;
    int64_t index = channel * count % problem.classes;
    for (int64_t k = 0; k < count; ++k) {
      prefetch(h[row] + index + kBlockRows * stride);
      index += kLanes<Arithmetic<E>>;
      if (index < problem.classes) continue;
      index = 0;
      if (row + 1 < count) ++row;
    }
  }

  void load_scores(const StatisticsProblem& problem, int64_t bag, int64_t head,
                   Vector<Arithmetic<E>>* score) const {
    for (int64_t row = 0; row < count; ++row)
      score[row / kLanes<Arithmetic<E>>][row % kLanes<Arithmetic<E>>] =
          load_one(at<E>(problem.scores, bag, head, frame[row]));
  }
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
