// Global weighted rank pooling, forward and backward, in the two layouts of frames.h.
#pragma once

#include "formula.h"
#include "frames.h"
#include "parallel.h"
#include "rank_network.h"
#include "rank_order.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Whether the rows of so many classes are ordered by a network. Few would leave most lanes idle.
template <class T>
bool are_ordered_together(const Problem& problem, int64_t classes) {
  return std::is_same_v<T, float> && problem.frames <= kLongestNetwork &&
         2 * classes >= kLanes<double>;
}

// Classes whose frames one task gathers into rows: a cache line of them where classes are
// contiguous or are ordered together, else as many as are worth handing out.
template <class T>
int64_t classes_of_task(const Problem& problem) {
  constexpr int64_t kLine = 16;
  constexpr int64_t kTaskElements = 4096;
  if (!problem.frames_contiguous || are_ordered_together<T>(problem, problem.classes)) return kLine;
  const int64_t classes = kTaskElements / (problem.frames > 0 ? problem.frames : 1);
  return classes > kLine ? kLine : classes > 1 ? classes : 1;
}

// The ranks of the rows of some classes, a vector of rows after the other.
inline void rank_together(const float* rows, int64_t length, int64_t count, int64_t classes,
                          int32_t* ranks) {
  Scratch<Items> items(2 * length);
  for (int64_t row = 0; row < classes; row += kNetworkRows) {
    const int64_t rest = classes - row;
    rank_rows(rows + row * length, length, count, rest < kNetworkRows ? rest : kNetworkRows,
              items.at(0), ranks + row * length);
  }
}

// The powers of decay that are not 0, after one 0 for the rank -1: weight(rank) = at(1 + rank).
template <class T>
class RankWeights {
 public:
  RankWeights(double decay, int64_t frames) : weights_(frames + 1) {
    constexpr int64_t kFine = 256;
    const int64_t fine_powers = frames < kFine ? frames : kFine;
    double fine[kFine];
    for (int64_t rank = 0; rank < fine_powers; ++rank)
      fine[rank] = std::pow(decay, static_cast<double>(rank));
    weights_[0] = 0;
    double coarse = 1;
    // Where the order counts for nothing all frames rank first.
    const int64_t limit = decay == 1 && frames > 1 ? 1 : frames;
    for (; ranks_ < limit; ++ranks_) {
      if (ranks_ % kFine == 0) coarse = std::pow(decay, static_cast<double>(ranks_));
      const T weight = static_cast<T>(coarse * fine[ranks_ % kFine]);
      if (weight == 0) break;
      weights_[1 + ranks_] = weight;
    }
    for (int64_t rank = ranks_; rank < frames; ++rank) weights_[1 + rank] = 0;
  }
  // Where rank 0 is found; the rank -1 before it.
  const T* table() const { return weights_.at(1); }
  int64_t ranks() const { return ranks_; }

 private:
  Scratch<T> weights_;
  int64_t ranks_ = 0;
};

// Σ decay^r over `count` ranks.
inline double sum_of_powers(double decay, int64_t count) {
  if (decay == 1) return static_cast<double>(count);
  return -std::expm1(static_cast<double>(count) * std::log(decay)) / (1 - decay);
}

// The frames of a bag that are real, in their order. Returns how many.
inline int64_t list_real_frames(const Problem& problem, int64_t bag, int32_t* frames) {
  const uint8_t* mask = mask_row(problem, bag);
  int64_t count = 0;
  for (int64_t frame = 0; frame < problem.frames; ++frame) {
    if (mask != nullptr && !mask[frame * problem.mask_stride_frame]) continue;
    frames[count++] = static_cast<int32_t>(frame);
  }
  return count;
}

// Entries of a table.
template <class T>
inline Vector<T> look_up(const T* table, const int32_t* entries) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    // The plain form warns of what it leaves unset.
    return bit_cast<Vector<T>>(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff,
                                                        _mm512_loadu_si512(entries), table, 4));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vector<T>>(_mm256_i32gather_ps(
        table, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(entries)), 4));
#endif
  T found[kLanes<T>];
  for (int lane = 0; lane < kLanes<T>; ++lane) found[lane] = table[entries[lane]];
  return load(found);
}

// What pooling one row comes to.
struct RankedRow {
  double product = 0;
  double low = 0;
  double high = 0;
  bool nan = false;
};

// Sums a row of values by the weights of their ranks. Both are padded to whole vectors: the ranks
// with -1, which weighs nothing.
template <class T>
inline RankedRow weigh_row(const T* raw, int64_t count, const int32_t* ranks,
                           const RankWeights<T>& weights, bool from_logits) {
  constexpr int64_t kStep = kLanes<T>;
  LongSum<T> sum;
  Vector<T> low = broadcast(T(__builtin_inf()));
  Vector<T> high = -low;
  for (int64_t start = 0; start < count; start += kStep) {
    Vector<T> x = load(raw + start);
    if (from_logits) x = sigmoid<T>(x).value;
    const Vector<T> weight = look_up(weights.table(), ranks + start);
    if (count - start >= kStep) {
      sum.add(weight * x);
      low = minimum(low, x);
      high = maximum(high, x);
    } else {
      const Integer<T> inside = first_lanes<T>(count - start);
      sum.add(inside ? weight * x : Vector<T>{});
      low = inside ? minimum(low, x) : low;
      high = inside ? maximum(high, x) : high;
    }
  }
  RankedRow row;
  for (int lane = 0; lane < kLanes<T>; ++lane)
    row.product += static_cast<double>(sum.sum[lane]) + static_cast<double>(sum.lost[lane]);
  row.low = -largest_lane<T>(-low);
  row.high = largest_lane<T>(high);
  return row;
}

template <class T>
inline bool has_nan(const T* raw, int64_t count) {
  constexpr int64_t kStep = kLanes<T>;
  Integer<T> found{};
  for (int64_t start = 0; start < count; start += kStep) {
    const Vector<T> values = load_lanes(raw + start, count - start < kStep ? count - start : kStep);
    found |= values != values;
  }
  return any(found);
}

template <class E>
inline void write_ranked(const RankProblem& problem, int64_t cell, int64_t count, double total,
                         RankedRow row) {
  using T = Arithmetic<E>;
  double y = count == 0 ? 0 : row.product / total;
  if (count > 0 && y < row.low) y = row.low;
  if (count > 0 && y > row.high) y = row.high;
  if (row.nan) y = __builtin_nan("");
  // A total of infinity takes every frame's gradient to 0, one of NaN to NaN.
  const double divisor = row.nan ? y : count == 0 ? __builtin_inf() : total;
  static_cast<T*>(problem.total)[cell] = static_cast<T>(divisor);
  store_bags<E>(problem, cell, broadcast(static_cast<T>(y)), 1);
}

template <class Rank>
void write_ranks(const RankProblem& problem, int64_t bag, int64_t class_index, int64_t count,
                 const int32_t* frames, const int32_t* ranks) {
  const int64_t stride = problem.ranks.stride_frame;
  Rank* to = at_mutable<Rank>(problem.ranks, bag, class_index, 0);
  if (count < problem.frames)
    for (int64_t frame = 0; frame < problem.frames; ++frame) to[frame * stride] = -1;
  for (int64_t index = 0; index < count; ++index)
    to[frames[index] * stride] = static_cast<Rank>(ranks[index]);
}

// Raw values of a bag's real frames in rows `length` apart, of a block of classes.
template <class E>
void gather_rows(const RankProblem& problem, int64_t bag, int64_t class_start, int64_t classes,
                 int64_t count, const int32_t* frames, int64_t length, Arithmetic<E>* rows) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  if (problem.frames_contiguous && count == problem.frames) {
    for (int64_t index = 0; index < classes; ++index) {
      const E* x = at<E>(problem.x, bag, class_start + index, 0);
      for (int64_t frame = 0; frame < count; frame += kStep) {
        const int64_t lanes = count - frame < kStep ? count - frame : kStep;
        store(rows + index * length + frame, load_lanes(x + frame, lanes));
      }
    }
    return;
  }
  for (int64_t index = 0; index < count; ++index) {
    const int64_t step = problem.frames_contiguous ? 1 : kStep;
    for (int64_t start = 0; start < classes; start += step) {
      const E* x = at<E>(problem.x, bag, class_start + start, frames[index]);
      const int64_t lanes = classes - start < step ? classes - start : step;
      const Vector<T> values = load_lanes(x, lanes);
      for (int64_t lane = 0; lane < lanes; ++lane)
        rows[(start + lane) * length + index] = values[lane];
    }
  }
}

// Pools a block of classes of one bag.
template <class E>
void rank_classes(const RankProblem& problem, const RankWeights<Arithmetic<E>>& weights,
                  int64_t bag, int64_t class_start, int64_t classes) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t length = (problem.frames + kStep - 1) / kStep * kStep;
  const bool together = are_ordered_together<T>(problem, classes) && problem.decay != 1;
  Scratch<T> rows(classes * length);
  Scratch<Item<T>> items(together ? 0 : 2 * length);
  Scratch<int32_t> all_ranks(together ? classes * length : length);
  Scratch<int32_t> frames(length);
  const int64_t count = list_real_frames(problem, bag, frames.at(0));
  gather_rows<E>(problem, bag, class_start, classes, count, frames.at(0), length, rows.at(0));
  for (int64_t index = 0; index < classes; ++index)
    for (int64_t lane = count; lane < length; ++lane) rows[index * length + lane] = 0;
  if constexpr (std::is_same_v<T, float>)
    if (together) rank_together(rows.at(0), length, count, classes, all_ranks.at(0));
  const double total = sum_of_powers(problem.decay, count);
  for (int64_t index = 0; index < classes; ++index) {
    const T* raw = rows.at(index * length);
    int32_t* ranks = all_ranks.at(together ? index * length : 0);
    for (int64_t lane = count; lane < length; ++lane) ranks[lane] = -1;
    RankedRow row;
    row.nan = has_nan(raw, count);
    if (row.nan || problem.decay == 1)
      std::memset(ranks, 0, static_cast<size_t>(count) * sizeof(int32_t));
    else if (!together)
      rank_values(raw, count, weights.ranks(), items.at(0), ranks);
    if (!row.nan) row = weigh_row<T>(raw, count, ranks, weights, problem.from_logits);
    write_ranked<E>(problem, bag * problem.classes + class_start + index, count, total, row);
    if (problem.ranks.data == nullptr) continue;
    const int64_t class_index = class_start + index;
    problem.wide_ranks
        ? write_ranks<int32_t>(problem, bag, class_index, count, frames.at(0), ranks)
        : write_ranks<int16_t>(problem, bag, class_index, count, frames.at(0), ranks);
  }
}

template <class E>
void rank_forward(const RankProblem& problem) {
  const RankWeights<Arithmetic<E>> weights(problem.decay, problem.frames);
  const int64_t width = classes_of_task<Arithmetic<E>>(problem);
  const int64_t blocks = (problem.classes + width - 1) / width;
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  parallel_for(problem.bags * blocks, elements, problem.threads, [&](int64_t task) {
    const int64_t start = task % blocks * width;
    const int64_t rest = problem.classes - start;
    rank_classes<E>(problem, weights, task / blocks, start, rest < width ? rest : width);
  });
}

template <int kCount, class Rank>
MILKERNELS_INLINE void widen_ranks(const Rank* from, int32_t* to) {
  typedef Rank Ranks __attribute__((vector_size(kCount * sizeof(Rank))));
  typedef int32_t Wide __attribute__((vector_size(kCount * sizeof(int32_t))));
  Ranks ranks;
  std::memcpy(&ranks, from, sizeof ranks);
  const Wide wide = __builtin_convertvector(ranks, Wide);
  std::memcpy(to, &wide, sizeof wide);
}

// One line of frames or of classes.
template <class E, class Rank>
void scatter_ranked(const RankProblem& problem, const RankWeights<Arithmetic<E>>& weights,
                    int64_t bag, int64_t class_index, int64_t frame, int64_t length) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const bool by_frame = problem.frames_contiguous;
  const E* x = at<E>(problem.x, bag, class_index, frame);
  const Rank* ranks = at<Rank>(problem.ranks, bag, class_index, frame);
  E* x_gradient = at_mutable<E>(problem.x_gradient, bag, class_index, frame);
  const int64_t cell = bag * problem.classes + class_index;
  const T* total = static_cast<const T*>(problem.total) + cell;
  // Of no classes there is nothing to read.
  Vector<T> scale{};
  if (by_frame) scale = broadcast((bag_gradients<E>(problem, cell, 1) / load_first(total, 1))[0]);
  for (int64_t start = 0; start < length; start += kStep) {
    const int64_t count = length - start < kStep ? length - start : kStep;
    if (!by_frame)
      scale = bag_gradients<E>(problem, cell + start, count) / load_lanes(total + start, count);
    int32_t own[kLanes<T>];
    if (count == kStep)
      widen_ranks<kLanes<T>>(ranks + start, own);
    else
      for (int64_t lane = 0; lane < kStep; ++lane)
        own[lane] = lane < count ? ranks[start + lane] : -1;
    const Vector<T> weight = look_up(weights.table(), own);
    Vector<T> result = scale * weight;
    if (problem.from_logits) {
      const Sigmoid<T> at = sigmoid<T>(load_lanes(x + start, count));
      result *= at.value * at.complement;
    }
    // A frame that weighs nothing gets 0 from a bag of NaN, too.
    const Vector<T> zero{};
    store_lanes(x_gradient + start, weight == zero ? zero : result, count);
  }
}

template <class E>
void rank_backward(const RankProblem& problem) {
  const RankWeights<Arithmetic<E>> weights(problem.decay, problem.frames);
  const int64_t frames = frames_of_task(problem);
  const int64_t parts = parts_of(problem);
  const bool by_frame = problem.frames_contiguous;
  const int64_t rows = by_frame ? problem.bags * problem.classes : problem.bags;
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  const auto scatter = problem.wide_ranks ? scatter_ranked<E, int32_t> : scatter_ranked<E, int16_t>;
  parallel_for(rows * parts, elements, problem.threads, [&](int64_t task) {
    const int64_t row = task / parts;
    const int64_t first = task % parts * frames;
    const int64_t last = first + frames < problem.frames ? first + frames : problem.frames;
    if (by_frame) {
      scatter(problem, weights, row / problem.classes, row % problem.classes, first, last - first);
      return;
    }
    for (int64_t frame = first; frame < last; ++frame)
      scatter(problem, weights, row, 0, frame, problem.classes);
  });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
