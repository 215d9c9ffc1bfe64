// Forward passes of families whose bag value comes from sums that are gathered frame by frame and
// merged part by part: the walk over layouts, segments and threads, the same for all of them.
//
// A family F for elements E has
//   kRows, the vectors of a part's sums;
//   coefficient(problem, cell, count): what it reads for each bag and class, one lane for each;
//   Gatherer(coefficient): gather<kCount, kAll>(raw, real) takes kCount frames in each lane, with
//     kAll all of them real; rows() are its sums;
//   merge(a, b, coefficient): the sums of two parts together;
//   write(problem, cell, count, rows, coefficient): the bag values, and what the backward pass needs.
#pragma once

#include "frames.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// The sums of one part of a bag in each lane.
template <class T, int kRows>
struct Rows {
  Vector<T> row[kRows];
};

template <class T>
inline Vector<T> rotated(Vector<T> vector, int by) {
  T lanes[2 * kLanes<T>];
  std::memcpy(lanes, &vector, sizeof vector);
  std::memcpy(lanes + kLanes<T>, &vector, sizeof vector);
  std::memcpy(&vector, lanes + by, sizeof vector);
  return vector;
}

// All lanes are parts of one bag: the bag's sums, in the first lane.
template <class F, class T>
inline Rows<T, F::kRows> merge_all_lanes(Rows<T, F::kRows> lanes, Vector<T> coefficient) {
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    Rows<T, F::kRows> others;
    for (int row = 0; row < F::kRows; ++row) others.row[row] = rotated<T>(lanes.row[row], width);
    lanes = F::merge(lanes, others, coefficient);
  }
  return lanes;
}

template <class E, class F, class Problem>
inline void write_part(const Problem& problem, int64_t segments, int64_t segment, int64_t cell,
                       int64_t count, const Rows<Arithmetic<E>, F::kRows>& rows,
                       Vector<Arithmetic<E>> coefficient) {
  using T = Arithmetic<E>;
  if (segments == 1) {
    F::write(problem, cell, count, rows, coefficient);
    return;
  }
  const int64_t cells = problem.bags * problem.classes;
  T* part = static_cast<T*>(problem.scratch) + segment * F::kRows * cells + cell;
  for (int row = 0; row < F::kRows; ++row) store_lanes(part + row * cells, rows.row[row], count);
}

// A row of contiguous frames.
template <class E, class F, class Problem>
Rows<Arithmetic<E>, F::kRows> gather_frames(const Problem& problem, int64_t cell, int64_t first,
                                            int64_t last, Vector<Arithmetic<E>> coefficient) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t bag = cell / problem.classes;
  const E* x = at<E>(problem.x, bag, cell % problem.classes, 0);
  const uint8_t* mask = mask_row(problem, bag);
  typename F::Gatherer gatherer(coefficient);
  Vector<T> raw[kGroup];
  int64_t frame = first;
  if (mask == nullptr) {
    for (; frame + kGroup * kStep <= last; frame += kGroup * kStep) {
      for (int k = 0; k < kGroup; ++k) raw[k] = load(x + frame + k * kStep);
      gatherer.template gather<kGroup, true>(raw, nullptr);
    }
  }
  for (; frame < last; frame += kStep) {
    const int64_t count = last - frame < kStep ? last - frame : kStep;
    raw[0] = load_lanes(x + frame, count);
    const Integer<T> real = real_lanes<T>(problem, mask, frame, count);
    gatherer.template gather<1, false>(raw, &real);
  }
  return merge_all_lanes<F>(gatherer.rows(), coefficient);
}

// A block of contiguous classes.
template <class E, class F, class Problem>
void gather_block(const Problem& problem, int64_t segments, int64_t segment, int64_t bag,
                  int64_t class_start, int64_t class_end, int64_t first, int64_t last) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const uint8_t* mask = mask_row(problem, bag);
  const int64_t cell = bag * problem.classes;
  Vector<T> coefficients[kClassVectors];
  typename F::Gatherer gatherers[kClassVectors];
  for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
    const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
    coefficients[block] = F::coefficient(problem, cell + index, lanes);
    gatherers[block] = typename F::Gatherer(coefficients[block]);
  }
  int64_t frame = first;
  while (frame < last) {
    // Masked frames are passed over whole: in this layout a frame is real for every class.
    const E* x[kGroup];
    int count = 0;
    for (; frame < last && count < kGroup; ++frame)
      if (mask == nullptr || mask[frame * problem.mask_stride_frame])
        x[count++] = at<E>(problem.x, bag, 0, frame);
    for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
      const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
      Vector<T> raw[kGroup];
      for (int k = 0; k < count; ++k) raw[k] = load_lanes(x[k] + index, lanes);
      if (count == kGroup) {
        gatherers[block].template gather<kGroup, true>(raw, nullptr);
      } else {
        for (int k = 0; k < count; ++k)
          gatherers[block].template gather<1, true>(raw + k, nullptr);
      }
    }
  }
  for (int64_t index = class_start, block = 0; index < class_end; index += kStep, ++block) {
    const int64_t lanes = class_end - index < kStep ? class_end - index : kStep;
    write_part<E, F>(problem, segments, segment, cell + index, lanes, gatherers[block].rows(),
                     coefficients[block]);
  }
}

// Join the segments of long bags, in order.
template <class E, class F, class Problem>
void merge_parts(const Problem& problem, int64_t segments) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const int64_t cells = problem.bags * problem.classes;
  for (int64_t cell = 0; cell < cells; cell += kStep) {
    const int64_t count = cells - cell < kStep ? cells - cell : kStep;
    const Vector<T> coefficient = F::coefficient(problem, cell, count);
    Rows<T, F::kRows> whole{};
    for (int64_t segment = 0; segment < segments; ++segment) {
      const T* part = static_cast<const T*>(problem.scratch) + segment * F::kRows * cells + cell;
      Rows<T, F::kRows> rows;
      for (int row = 0; row < F::kRows; ++row) rows.row[row] = load_lanes(part + row * cells, count);
      whole = segment == 0 ? rows : F::merge(whole, rows, coefficient);
    }
    F::write(problem, cell, count, whole, coefficient);
  }
}

template <class E, class F, class Problem>
void gather(const Problem& problem) {
  using T = Arithmetic<E>;
  const int64_t segments = segments_of(problem.frames);
  const int64_t elements = problem.bags * problem.classes * problem.frames;
  const auto last_of = [&](int64_t segment) {
    return segment + 1 == segments ? problem.frames : (segment + 1) * kSegmentFrames;
  };
  if (problem.frames_contiguous) {
    const int64_t tasks = problem.bags * problem.classes * segments;
    parallel_for(tasks, elements, problem.threads, [&](int64_t task) {
      const int64_t cell = task / segments;
      const int64_t segment = task % segments;
      const Vector<T> coefficient = broadcast(F::coefficient(problem, cell, 1)[0]);
      const auto rows = gather_frames<E, F>(problem, cell, segment * kSegmentFrames,
                                            last_of(segment), coefficient);
      write_part<E, F>(problem, segments, segment, cell, 1, rows, coefficient);
    });
  } else {
    constexpr int64_t kBlock = kClassVectors * kLanes<T>;
    const int64_t blocks = (problem.classes + kBlock - 1) / kBlock;
    parallel_for(problem.bags * segments * blocks, elements, problem.threads, [&](int64_t task) {
      const int64_t start = task % blocks * kBlock;
      const int64_t end = start + kBlock < problem.classes ? start + kBlock : problem.classes;
      const int64_t segment = task / blocks % segments;
      gather_block<E, F>(problem, segments, segment, task / blocks / segments, start, end,
                         segment * kSegmentFrames, last_of(segment));
    });
  }
  if (segments > 1) merge_parts<E, F>(problem, segments);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
