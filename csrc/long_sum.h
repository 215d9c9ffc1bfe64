// Sums of many terms that keep what each addition loses.
#pragma once

#include "simd.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// A sum of many terms, with what each addition loses kept beside.
template <class T>
struct LongSum {
  Vector<T> sum{};
  Vector<T> lost{};

  MILKERNELS_INLINE void add(Vector<T> term) {
    const Vector<T> next = sum + term;
    const Vector<T> added = next - sum;
    lost += (sum - (next - added)) + (term - added);
    sum = next;
  }
  MILKERNELS_INLINE void scale(Vector<T> by) {
    sum *= by;
    lost *= by;
  }
  MILKERNELS_INLINE Vector<T> value() const { return sum + lost; }
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
