// The sums of a part of a bag, of a family that gather.h describes.
#pragma once

#include "constants.h"
#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class E, class F>
constexpr int kGathered = kLargeGroup<Arithmetic<E>, F::kLongChains>;

// The sums of one part of a bag in each lane.
template <class T, int kRows>
struct Rows {
  Vector<T> row[kRows];
};

template <class E, class F, class Problem>
MILKERNELS_INLINE void write_part(const Problem& problem, int64_t segments, int64_t segment,
                                  int64_t cell, int64_t count,
                                  const Rows<Arithmetic<E>, F::kRows>& rows,
                                  const typename F::Coefficients& coefficients) {
  using T = Arithmetic<E>;
  if (segments == 1) {
    F::write(problem, cell, count, rows, coefficients);
    return;
  }
  const int64_t cells = problem.bags * problem.classes;
  T* part = static_cast<T*>(problem.scratch) + segment * F::kRows * cells + cell;
  MILKERNELS_UNROLL
  for (int row = 0; row < F::kRows; ++row) store_lanes(part + row * cells, rows.row[row], count);
}

// The decays of some vectors of frames, all before one is used, so that the processor may work on
// all of them at once.
template <class F, int kVectors, class T>
MILKERNELS_INLINE void take_decays(const Vector<T>* raw, Vector<T>* decay) {
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) {
    if constexpr (F::kDecays)
      decay[k] = F::decay(raw[k]);
    else
      decay[k] = raw[k];
  }
}

// Calls take(vectors) for groups of `count` vectors, the first `taken` of which are done.
template <class T, int kLarge, class Take>
MILKERNELS_INLINE void in_groups(int64_t& taken, int64_t count, const Take& take) {
  for (; taken + kLarge <= count; taken += kLarge) take(std::integral_constant<int, kLarge>());
  if constexpr (kLarge > kGroup<T>)
    for (; taken + kGroup<T> <= count; taken += kGroup<T>)
      take(std::integral_constant<int, kGroup<T>>());
  for (; taken < count; ++taken) take(std::integral_constant<int, 1>());
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
