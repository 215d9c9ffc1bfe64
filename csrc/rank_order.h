// The order of a row of values, largest first, the earlier of equals first: by counting in short
// rows, by digits in long ones.
#pragma once

#include "elements.h"
#include "scratch.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Up to this many values for each lane counting is faster than sorting by digits.
constexpr int64_t kCountedPerLane = 24;

// Each value's rank is how many are larger, or equal and earlier: every pair is compared, a vector
// of pairs at a time.
template <class T>
void count_ranks(const T* values, int64_t count, int32_t* ranks) {
  constexpr int64_t kStep = kLanes<T>;
  constexpr int kBlocks = 4;
  for (int64_t start = 0; start < count; start += kBlocks * kStep) {
    Vector<T> own[kBlocks];
    Integer<T> rank[kBlocks];
    for (int block = 0; block < kBlocks; ++block) {
      const int64_t first = start + block * kStep;
      const int64_t lanes = count - first < kStep ? count - first : kStep;
      own[block] = lanes <= 0      ? Vector<T>{}
                   : lanes < kStep ? load_first(values + first, lanes)
                                   : load(values + first);
      rank[block] = Integer<T>{};
    }
    // The lanes of a comparison are -1 where it holds.
    const int64_t end = start + kBlocks * kStep < count ? start + kBlocks * kStep : count;
    for (int64_t other = 0; other < start; ++other) {
      const Vector<T> value = broadcast(values[other]);
      for (int block = 0; block < kBlocks; ++block) rank[block] -= value >= own[block];
    }
    for (int64_t other = start; other < end; ++other) {
      const Vector<T> value = broadcast(values[other]);
      for (int block = 0; block < kBlocks; ++block) {
        const auto lane = static_cast<typename Simd<T>::Lane>(other - start - block * kStep);
        const Integer<T> earlier = lane < lane_numbers<T>();
        rank[block] -= (value > own[block]) | ((value == own[block]) & earlier);
      }
    }
    for (int64_t other = end; other < count; ++other) {
      const Vector<T> value = broadcast(values[other]);
      for (int block = 0; block < kBlocks; ++block) rank[block] -= value > own[block];
    }
    for (int64_t index = start; index < end; ++index)
      ranks[index] = static_cast<int32_t>(rank[(index - start) / kStep][(index - start) % kStep]);
  }
}

// A value as an integer that is smaller for a larger value, with its index.
template <class T>
struct Item;

template <>
struct Item<float> {
  static constexpr int kKeyBits = 32;
  uint64_t packed;
  Item() = default;
  Item(float value, int64_t index) {
    const uint32_t bits = bit_cast<uint32_t>(value + 0.0f);  // -0 and 0 are equal
    const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    packed = static_cast<uint64_t>(~rising) << 32 | static_cast<uint64_t>(index);
  }
  uint64_t key() const { return packed >> 32; }
  int64_t index() const { return static_cast<int64_t>(packed & 0xffffffffu); }
};

template <>
struct Item<double> {
  static constexpr int kKeyBits = 64;
  uint64_t bits;
  int64_t place;
  Item() = default;
  Item(double value, int64_t index) : place(index) {
    const uint64_t own = bit_cast<uint64_t>(value + 0.0);
    bits = ~(own >> 63 ? ~own : own | uint64_t{1} << 63);
  }
  uint64_t key() const { return bits; }
  int64_t index() const { return place; }
};

// Bits of the digit that short and long rows are sorted by: counting the digits of a short row must
// not cost more than sorting it.
constexpr int kShortDigit = 8;
constexpr int kLongDigit = 11;
constexpr int64_t kShortRow = 4096;

template <int kBits, class T>
inline int64_t digit_of(const Item<T>& item, int shift) {
  return static_cast<int64_t>(item.key() >> shift) & ((int64_t{1} << kBits) - 1);
}

// Items of the values among which the `wanted` largest are: all whose leading digit is not beyond
// that of the last wanted. Returns how many.
template <class T>
int64_t select_largest(const T* values, int64_t count, int64_t wanted, Item<T>* items) {
  constexpr int kShift = Item<T>::kKeyBits - kLongDigit;
  int32_t histogram[1 << kLongDigit] = {};
  for (int64_t index = 0; index < count; ++index)
    ++histogram[digit_of<kLongDigit>(Item<T>(values[index], index), kShift)];
  int64_t last = 0;
  for (int64_t seen = histogram[0]; seen < wanted; seen += histogram[last]) ++last;
  int64_t selected = 0;
  for (int64_t index = 0; index < count; ++index) {
    const Item<T> item(values[index], index);
    items[selected] = item;
    selected += digit_of<kLongDigit>(item, kShift) <= last;
  }
  return selected;
}

// Sorts items by key, stably, digit after digit from the last; `other` is as large. Returns where
// the sorted ones are.
template <int kBits, class T>
Item<T>* sort_by_digits(Item<T>* items, Item<T>* other, int64_t count) {
  constexpr int kPasses = (Item<T>::kKeyBits + kBits - 1) / kBits;
  constexpr int64_t kDigits = int64_t{1} << kBits;
  int32_t histograms[kPasses][kDigits] = {};
  for (int64_t index = 0; index < count; ++index)
    for (int pass = 0; pass < kPasses; ++pass)
      ++histograms[pass][digit_of<kBits>(items[index], pass * kBits)];
  for (int pass = 0; pass < kPasses; ++pass) {
    int32_t* places = histograms[pass];
    const int shift = pass * kBits;
    if (places[digit_of<kBits>(items[0], shift)] == count) continue;
    int32_t before = 0;
    for (int64_t digit = 0; digit < kDigits; ++digit) {
      const int32_t here = places[digit];
      places[digit] = before;
      before += here;
    }
    for (int64_t index = 0; index < count; ++index)
      other[places[digit_of<kBits>(items[index], shift)]++] = items[index];
    Item<T>* sorted = other;
    other = items;
    items = sorted;
  }
  return items;
}

// Ranks of `count` values without NaN; below the `wanted` first, -1 may stand for any rank. `items`
// has room for twice the values.
template <class T>
void rank_values(const T* values, int64_t count, int64_t wanted, Item<T>* items, int32_t* ranks) {
  if (count <= kCountedPerLane * kLanes<T>) {
    count_ranks(values, count, ranks);
    return;
  }
  int64_t selected = count;
  if (wanted < count / 2)
    selected = select_largest(values, count, wanted, items);
  else
    for (int64_t index = 0; index < count; ++index) items[index] = Item<T>(values[index], index);
  const Item<T>* sorted = selected < kShortRow
                              ? sort_by_digits<kShortDigit>(items, items + count, selected)
                              : sort_by_digits<kLongDigit>(items, items + count, selected);
  if (selected < count)
    for (int64_t index = 0; index < count; ++index) ranks[index] = -1;
  for (int64_t rank = 0; rank < selected; ++rank)
    ranks[sorted[rank].index()] = static_cast<int32_t>(rank);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
