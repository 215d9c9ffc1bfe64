// The order of several short rows at once, one in each lane: a sorting network compares the same
// places of every row, whatever the values are.
#pragma once

#include "elements.h"
#include "transpose.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Beyond this many values a row leaves the nearer caches, and is better sorted by digits.
constexpr int64_t kLongestNetwork = 2048;

// Rows that are ordered together: a vector of values becomes two of items.
constexpr int64_t kNetworkRows = kLanes<float>;

// A value and its place as one number, which is smaller for a larger value and, of equal ones, for
// the earlier. All have exponents between those of subnormal numbers and of infinity: a comparison
// of doubles, which every processor has, orders their bits.
using Items = Vector<double>;
constexpr int kPlaceBits = 29;
constexpr int64_t kExponent = int64_t{1} << 61;

// Half of a vector of values: of lanes 0 and on, or of those from the middle on.
MILKERNELS_INLINE Items items_of(const int32_t* falling, int64_t place) {
  typedef uint32_t Half __attribute__((vector_size(sizeof(Items) / 2)));
  Half half;
  std::memcpy(&half, falling, sizeof half);
  const Integer<double> keys = __builtin_convertvector(half, Integer<double>);
  return bit_cast<Items>(keys << kPlaceBits | (kExponent | place));
}

// Integers that are smaller, read without a sign, for larger values.
MILKERNELS_INLINE Integer<float> falling_keys(Vector<float> values) {
  const auto bits = bit_cast<Integer<float>>(values + 0.0f);  // -0 and 0 are equal
  return bits < 0 ? bits : bits ^ 0x7fffffff;
}

MILKERNELS_INLINE void order(Items& first, Items& second) {
  const Items smaller = minimum(first, second);
  second = maximum(first, second);
  first = smaller;
}

// Puts places that are `distance` apart in order: runs of `kRun` or `run` of them, every other run.
template <int kRun>
MILKERNELS_INLINE void order_runs(Items* items, int64_t start, int64_t end, int64_t distance) {
  for (; start + kRun <= end; start += 2 * kRun) {
    MILKERNELS_UNROLL
    for (int place = 0; place < kRun; ++place)
      order(items[start + place], items[start + place + distance]);
  }
  for (; start < end; ++start) order(items[start], items[start + distance]);
}
MILKERNELS_INLINE void order_runs(Items* items, int64_t start, int64_t end, int64_t distance,
                                  int64_t run) {
  if (run == 1) return order_runs<1>(items, start, end, distance);
  if (run == 2) return order_runs<2>(items, start, end, distance);
  if (run == 4) return order_runs<4>(items, start, end, distance);
  for (; start < end; start += 2 * run)
    for (int64_t place = start; place < end && place < start + run; ++place)
      order(items[place], items[place + distance]);
}

// Batcher's merge exchange, for any count: D. E. Knuth, The Art of Computer Programming, volume 3,
// algorithm 5.2.2M.
inline void sort_lanes(Items* items, int64_t count) {
  int64_t half = 1;
  while (2 * half < count) half *= 2;
  for (int64_t run = half; run > 0; run /= 2) {
    order_runs(items, 0, count - run, run, run);
    for (int64_t step = half; step > run; step /= 2) {
      const int64_t distance = step - run;
      order_runs(items, run, count - distance, distance, run);
    }
  }
}

// The ranks, largest first, the earlier of equals first, of up to kNetworkRows rows of values, each
// `length` after the one before and padded to whole vectors, and of their ranks. `items` has room
// for twice a row.
inline void rank_rows(const float* rows, int64_t length, int64_t count, int64_t row_count,
                      Items* items, int32_t* ranks) {
  constexpr int64_t kStep = kLanes<float>;
  constexpr int64_t kHalf = kLanes<double>;
  Items* const halves[] = {items, items + length};
  for (int64_t start = 0; start < count; start += kStep) {
    Vector<float> block[kStep];
    for (int64_t row = 0; row < kStep; ++row)
      block[row] = row < row_count ? load(rows + row * length + start) : Vector<float>{};
    transpose<float>(block);
    for (int64_t place = 0; place < kStep; ++place) {
      int32_t keys[kStep];
      const Integer<float> falling = falling_keys(block[place]);
      std::memcpy(keys, &falling, sizeof keys);
      for (int half = 0; half < 2; ++half)
        halves[half][start + place] = items_of(keys + half * kHalf, start + place);
    }
  }
  for (int64_t first = 0; first < row_count; first += kHalf) {
    const Items* sorted = halves[first / kHalf];
    sort_lanes(halves[first / kHalf], count);
    const int64_t rows_here = row_count - first < kHalf ? row_count - first : kHalf;
    int32_t* const to = ranks + first * length;
    for (int64_t rank = 0; rank < count; ++rank) {
      int64_t bits[kHalf];
      std::memcpy(bits, sorted + rank, sizeof bits);
      for (int64_t row = 0; row < rows_here; ++row)
        to[row * length + (bits[row] & ((int64_t{1} << kPlaceBits) - 1))] =
            static_cast<int32_t>(rank);
    }
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
