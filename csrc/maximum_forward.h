// The maximum over frames, alone or plus their mean, forward, in the two layouts of frames.h. NaN
// is larger than any number, and the first of equals is taken.
#pragma once

#include <memory>

#include "formula.h"
#include "frames_at_once.h"
#include "parallel.h"
#include "room.h"
#include "transpose.h"
#include "turn.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Frames of a row whose largest value is known before its place is looked for: they stay in a
// processor's first cache between.
constexpr int64_t kPeakFrames = 4096;

template <class T>
MILKERNELS_INLINE Vector<T> infinity(T sign) {
  return broadcast(sign * T(__builtin_inf()));
}

// The sum of each lane's frames, and the smallest.
template <class T>
struct MeanSums {
  LongSum<T> sum;
  Vector<T> low = infinity<T>(1);

  MILKERNELS_INLINE void take(const Problem& problem, Vector<T> raw, Integer<T> real) {
    const Vector<T> x = problem.from_logits ? sigmoid<T>(raw).value : raw;
    sum.add(real ? x : Vector<T>{});
    low = real ? minimum(low, x) : low;
  }
};

// A vector of classes: the largest value of each and its frame, -1 of nothing; with the mean, the
// sum of its frames and the smallest.
template <class T>
struct Peaks {
  T value[kLanes<T>] = {};
  int64_t frame[kLanes<T>];
  double sum[kLanes<T>] = {};
  double low[kLanes<T>];

  Peaks() {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      frame[lane] = -1;
      low[lane] = __builtin_inf();
    }
  }

  // Whether a later frame's value would be the largest.
  bool takes(int64_t lane, T other) const {
    const bool larger = other != other ? value[lane] == value[lane] : other > value[lane];
    return frame[lane] < 0 || larger;
  }

  void take(int64_t lane, T other, int64_t other_frame) {
    if (!takes(lane, other)) return;
    value[lane] = other;
    frame[lane] = other_frame;
  }

  // Lane `part` of the sums of a block of classes, or every lane of those of a row.
  void add(int64_t lane, const MeanSums<T>& sums, int64_t part) {
    sum[lane] += static_cast<double>(sums.sum.sum[part]) + static_cast<double>(sums.sum.lost[part]);
    const double smallest = static_cast<double>(sums.low[part]);
    low[lane] = smallest < low[lane] ? smallest : low[lane];
  }
  void add(int64_t lane, const MeanSums<T>& sums) {
    for (int part = 0; part < kLanes<T>; ++part) add(lane, sums, part);
  }

  // Those of later frames.
  void join(const Peaks& later) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      if (later.frame[lane] >= 0) take(lane, later.value[lane], later.frame[lane]);
      sum[lane] += later.sum[lane];
      low[lane] = later.low[lane] < low[lane] ? later.low[lane] : low[lane];
    }
  }

  // Held between the smallest and the largest frame.
  double mean(int64_t lane, int64_t frames, double high) const {
    double value = sum[lane] / static_cast<double>(frames);
    value = value < low[lane] ? low[lane] : value;
    return value > high ? high : value;
  }
};

inline int64_t real_frames(const Problem& problem, const uint8_t* mask) {
  if (mask == nullptr) return problem.frames;
  int64_t count = 0;
  for (int64_t frame = 0; frame < problem.frames; ++frame)
    count += mask[frame * problem.mask_stride_frame] != 0;
  return count;
}

template <class E, bool kPlusMean>
void write_peaks(const MaximumProblem& problem, int64_t cell, int64_t count,
                 const Peaks<Arithmetic<E>>& peaks, int64_t frames) {
  using T = Arithmetic<E>;
  Vector<T> y = load(peaks.value);
  if (problem.from_logits) {
    const Sigmoid<T> at = sigmoid<T>(y);
    y = at.value;
    if (problem.slopes != nullptr)
      store_lanes(static_cast<T*>(problem.slopes) + cell, at.value * at.complement, count);
  }
  for (int64_t lane = 0; lane < count; ++lane) {
    problem.index[cell + lane] = peaks.frame[lane];
    if constexpr (kPlusMean) {
      y[lane] += static_cast<T>(peaks.mean(lane, frames, static_cast<double>(y[lane])));
      problem.count[cell + lane] = frames;
    }
    if (peaks.frame[lane] < 0) y[lane] = 0;
  }
  store_bags<E>(problem, cell, y, count);
}

// Contiguous frames of a class, the first of which is frame `origin` of a bag.
template <class E>
struct Line {
  const E* x;
  const uint8_t* mask;
  int64_t origin;

  const E* at(int64_t frame) const { return x + (frame - origin); }
};

// The first real frame of some that is `value`, or NaN; -1 if none is.
template <class E>
int64_t first_frame(const Problem& problem, const Line<E>& line, int64_t first, int64_t last,
                    Arithmetic<E> value) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const bool is_nan = value != value;
  const Vector<T> sought = broadcast(value);
  for (int64_t frame = first; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    const Vector<T> raw = load_lanes(line.at(frame), count);
    const Integer<T> hits = real_lanes<T>(problem, line.mask, frame, count) &
                            (is_nan ? Integer<T>(raw != raw) : Integer<T>(raw == sought));
    if (any(hits)) return frame + first_of<T>(hits);
  }
  return -1;
}

// The largest values of a row's stretch, in each lane of a group of vectors, and where NaN was
// seen.
template <class E, bool kPlusMean>
struct RowPeak {
  using T = Arithmetic<E>;
  Vector<T> top[kGroup<T>];
  Integer<T> nan{};
  MeanSums<T> sums;

  MILKERNELS_INLINE RowPeak() {
    for (Vector<T>& vector : top) vector = infinity<T>(-1);
  }

  template <int kVectors, bool kAll, class Lanes>
  MILKERNELS_INLINE void take(const Problem& problem, const E* x, const Lanes& lanes_of) {
    fetch_ahead<kVectors>(x);
    MILKERNELS_UNROLL
    for (int k = 0; k < kVectors; ++k) {
      const PresentLanes<T> lanes = lanes_of(k);
      Vector<T> raw = load_lanes(x + k * kLanes<T>, lanes.count);
      if constexpr (kPlusMean) sums.take(problem, raw, lanes.real);
      if constexpr (!kAll) raw = lanes.real ? raw : infinity<T>(-1);
      nan |= raw != raw;
      top[k] = maximum(top[k], raw);
    }
  }

  MILKERNELS_INLINE T value() const {
    if (any(nan)) return static_cast<T>(__builtin_nan(""));
    const auto larger = [](auto a, auto b) { return maximum(a, b); };
    return largest_lane<T>(together<kGroup<T>>(top, larger));
  }
};

// The peak of a class, `lane` of those that there are, by some of its frames.
template <class E, bool kPlusMean>
void peak_of_line(const MaximumProblem& problem, const Line<E>& line, int64_t first, int64_t last,
                  int64_t lane, Peaks<Arithmetic<E>>& peaks) {
  using T = Arithmetic<E>;
  RowPeak<E, kPlusMean> peak;
  walk_row<T, kGroup<T>>(
      problem, line.mask, first, last,
      [&](auto vectors, auto all, int64_t frame, const auto& lanes_of) MILKERNELS_INLINE_LAMBDA {
        peak.template take<vectors, all>(problem, line.at(frame), lanes_of);
      },
      [](int64_t) {});
  if constexpr (kPlusMean) peaks.add(lane, peak.sums);
  const T value = peak.value();
  if (!peaks.takes(lane, value)) return;
  const int64_t frame = first_frame(problem, line, first, last, value);
  if (frame >= 0) peaks.take(lane, load_one(line.at(frame)), frame);
}

template <class E, bool kPlusMean>
void peaks_of_rows(const MaximumProblem& problem, const Stretch& task,
                   Peaks<Arithmetic<E>>& peaks) {
  for (int64_t lane = 0; lane < task.class_end - task.class_start; ++lane) {
    const Line<E> row{at<E>(problem.x, task.bag, task.class_start + lane, 0),
                      mask_row(problem, task.bag), 0};
    for (int64_t first = task.first; first < task.last; first += kPeakFrames) {
      const int64_t last = first + kPeakFrames < task.last ? first + kPeakFrames : task.last;
      peak_of_line<E, kPlusMean>(problem, row, first, last, lane, peaks);
    }
  }
}

// Few contiguous classes, a block of frames after the other as such rows.
template <class E, bool kPlusMean>
void peaks_of_turned(const MaximumProblem& problem, const Stretch& task,
                     Peaks<Arithmetic<E>>& peaks) {
  Block<E> x;
  for_blocks(task.first, task.last, [&](int64_t first, int64_t last) {
    turn(problem, problem.x, task.bag, first, last, x);
    for (int64_t lane = 0; lane < problem.classes; ++lane) {
      const Line<E> row{x.row(lane), mask_row(problem, task.bag), first};
      peak_of_line<E, kPlusMean>(problem, row, first, last, lane, peaks);
    }
  });
}

// What a block of contiguous classes keeps from frame to frame.
template <class T>
struct Largest {
  Vector<T> value;
  Integer<T> frame;

  MILKERNELS_INLINE void take(Vector<T> raw, Integer<T> raw_frame) {
    const Integer<T> stays = (raw <= value) | (value != value);
    value = stays ? value : raw;
    frame = stays ? frame : raw_frame;
  }
};

// A block of up to kVectors vectors of contiguous classes, which begins at a class of a bag of
// `from`.
template <class E, bool kPlusMean, int kVectors>
void peaks_of_classes(const MaximumProblem& problem, const Stretch& task, const FrameTensor& from,
                      int64_t bag, int64_t class_start, Peaks<Arithmetic<E>>* peaks) {
  using T = Arithmetic<E>;
  using Lane = typename Simd<T>::Lane;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t classes = task.class_end - task.class_start;
  FramesAtOnce<1> frames(problem, task, {from.stride_frame}, come_from_far<E>(problem));
  const int64_t next_frames = frames.ahead();
  Room<Largest<T>, kVectors> largest;
  Room<MeanSums<T>, kPlusMean ? kVectors : 1> sums;
  bool began = false;
  while (frames.next()) {
    const E* x = at<E>(from, bag, class_start, frames.first());
    const auto number = [&](int64_t k) {
      return Integer<T>{} + static_cast<Lane>(frames.first() - task.first + frames.number(k));
    };
    for (int64_t index = 0, block = 0; index < classes; index += kStep, ++block) {
      if (!began) {
        largest.make(block, {infinity<T>(-1), number(0)});
        if constexpr (kPlusMean) sums.make(block, {});
      }
      const int64_t lanes = classes - index < kStep ? classes - index : kStep;
      Largest<T> here = largest[block];
      MeanSums<T> of_mean;
      if constexpr (kPlusMean) of_mean = sums[block];
      for (int64_t k = 0; k < frames.count(); ++k) {
        const E* x_here = x + frames.offset(k) + index;
        prefetch(x_here + next_frames);
        const Vector<T> raw = load_lanes(x_here, lanes);
        here.take(raw, number(k));
        if constexpr (kPlusMean) of_mean.take(problem, raw, every_lane<T>());
      }
      largest[block] = here;
      if constexpr (kPlusMean) sums[block] = of_mean;
    }
    began = true;
  }
  if (!began) return;
  for (int64_t index = 0; index < classes; ++index) {
    const int64_t block = index / kStep, lane = index % kStep;
    const Largest<T>& here = largest[block];
    peaks[block].take(lane, here.value[lane], task.first + here.frame[lane]);
    if constexpr (kPlusMean) peaks[block].add(lane, sums[block], lane);
  }
}

// Up to a vector of rows of real frames, each vector of `values` a frame: the largest values first,
// then the first frame of each that has it. False where one is NaN.
template <class E, bool kPlusMean>
bool peaks_of_transposed(const MaximumProblem& problem, const E* values, int64_t frames,
                         int64_t rows, Peaks<Arithmetic<E>>& peaks) {
  using T = Arithmetic<E>;
  using Lane = typename Simd<T>::Lane;
  constexpr int64_t kStep = kLanes<T>;
  // As many in turns: each would wait for the one before.
  constexpr int kTurns = 4;
  Vector<T> top[kTurns];
  for (Vector<T>& vector : top) vector = infinity<T>(-1);
  Integer<T> nan{};
  MeanSums<T> sums;
  const auto take = [&](int64_t frame, int turn) MILKERNELS_INLINE_LAMBDA {
    const Vector<T> raw = load(values + frame * kStep);
    nan |= raw != raw;
    top[turn] = maximum(top[turn], raw);
    if constexpr (kPlusMean) sums.take(problem, raw, every_lane<T>());
  };
  int64_t frame = 0;
  for (; frame + kTurns <= frames; frame += kTurns) {
    MILKERNELS_UNROLL
    for (int turn = 0; turn < kTurns; ++turn) take(frame + turn, turn);
  }
  for (; frame < frames; ++frame) take(frame, 0);
  if (any(nan)) return false;
  const Vector<T> largest = together<kTurns>(top, [](auto a, auto b) { return maximum(a, b); });
  Integer<T> place{};
  while (frame-- > 0) {
    const Integer<T> here = Integer<T>{} + static_cast<Lane>(frame);
    place = load(values + frame * kStep) == largest ? here : place;
  }
  for (int64_t lane = 0; lane < rows; ++lane) {
    peaks.take(lane, values[place[lane] * kStep + lane], place[lane]);
    if constexpr (kPlusMean) peaks.add(lane, sums, lane);
  }
  return true;
}

// A task's peaks: one vector of them, kClassVectors where classes are contiguous.
template <class E, bool kPlusMean>
void peaks_of_task(const MaximumProblem& problem, bool transposed, const Stretch& task,
                   Peaks<Arithmetic<E>>* peaks) {
  if constexpr (kTransposes<E>)
    if (transposed && fills_lanes<E>(task.class_end - task.class_start)) {
      alignas(64) E values[kShortRow * int64_t{kLanes<E>}];
      const FrameTensor turned = transpose_rows<E>(problem.x, task, values);
      const int64_t rows = task.class_end - task.class_start;
      if (problem.mask == nullptr && task.last > 0 &&
          peaks_of_transposed<E, kPlusMean>(problem, values, task.last, rows, *peaks))
        return;
      return peaks_of_classes<E, kPlusMean, 1>(problem, task, turned, 0, 0, peaks);
    }
  if constexpr (kTurns<E>)
    if (is_turned<E, false>(problem)) return peaks_of_turned<E, kPlusMean>(problem, task, *peaks);
  if (!problem.frames_contiguous)
    return peaks_of_classes<E, kPlusMean, kClassVectors>(problem, task, problem.x, task.bag,
                                                         task.class_start, peaks);
  peaks_of_rows<E, kPlusMean>(problem, task, *peaks);
}

template <class E, bool kPlusMean, int kVectors>
void find_peaks(const MaximumProblem& problem) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const bool transposed = kTransposes<E> && is_transposed<E>(problem, kShortRow);
  const int64_t segments = transposed ? 1 : segments_of(problem);
  const Stretches stretches(problem, segments, kStep, transposed);
  if (stretches.count() == 0) return;
  const auto write = [&](const Stretch& task, const Peaks<T>* peaks) {
    const int64_t frames = kPlusMean ? real_frames(problem, mask_row(problem, task.bag)) : 0;
    for (int64_t index = task.class_start; index < task.class_end; index += kStep, ++peaks) {
      const int64_t count = task.class_end - index < kStep ? task.class_end - index : kStep;
      write_peaks<E, kPlusMean>(problem, task.bag * problem.classes + index, count, *peaks, frames);
    }
  };
  if (segments == 1) {
    parallel_for(stretches.count(), elements_of(problem), problem.threads, [&](int64_t index) {
      Peaks<T> peaks[kVectors];
      const Stretch task = stretches.at(index);
      peaks_of_task<E, kPlusMean>(problem, transposed, task, peaks);
      write(task, peaks);
    });
    return;
  }
  const auto parts =
      std::make_unique<Peaks<T>[]>(static_cast<size_t>(stretches.count() * kVectors));
  parallel_for(stretches.count(), elements_of(problem), problem.threads, [&](int64_t index) {
    peaks_of_task<E, kPlusMean>(problem, transposed, stretches.at(index), &parts[index * kVectors]);
  });
  // The segments of long bags are joined in order: those of a block follow one another by `blocks`.
  const int64_t blocks = stretches.count() / (problem.bags * segments);
  parallel_for(problem.bags * blocks, stretches.count(), problem.threads, [&](int64_t index) {
    const int64_t first = index / blocks * segments * blocks + index % blocks;
    const Stretch task = stretches.at(first);
    Peaks<T>* whole = &parts[first * kVectors];
    for (int64_t segment = 1; segment < segments; ++segment)
      for (int64_t block = 0; block * kStep < task.class_end - task.class_start; ++block)
        whole[block].join(parts[(first + segment * blocks) * kVectors + block]);
    write(task, whole);
  });
}

template <class E, bool kPlusMean>
void find_peaks(const MaximumProblem& problem) {
  problem.frames_contiguous ? find_peaks<E, kPlusMean, 1>(problem)
                            : find_peaks<E, kPlusMean, kClassVectors>(problem);
}

template <class E>
void maximum_forward(const MaximumProblem& problem) {
  problem.plus_mean ? find_peaks<E, true>(problem) : find_peaks<E, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
