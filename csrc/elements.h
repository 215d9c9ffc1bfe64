// Element types in memory: loads that widen them to the vectors of the arithmetic, stores that
// round.
#pragma once

#include "simd.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

MILKERNELS_INLINE Vector<float> widen(Simd<float>::Unsigned bits, BFloat16) {
  return bit_cast<Vector<float>>(bits << 16);
}

MILKERNELS_INLINE Vector<float> widen(Simd<float>::Unsigned bits, Float16) {
  using Unsigned = Simd<float>::Unsigned;
  const Unsigned magnitude = (bits & 0x7fff) << 13;
  const Unsigned exponent = magnitude & 0x0f800000;
  const Unsigned rebased = magnitude + 0x38000000;
  const Vector<float> subnormal =
      bit_cast<Vector<float>>(rebased + 0x00800000) - broadcast(bit_cast<float>(0x38800000));
  Unsigned result = exponent == 0x0f800000 ? rebased + 0x38000000 : rebased;
  result = exponent == 0 ? bit_cast<Unsigned>(subnormal) : result;
  return bit_cast<Vector<float>>(result | ((bits & 0x8000) << 16));
}

MILKERNELS_INLINE Simd<float>::Unsigned narrow(Vector<float> value, BFloat16) {
  using Unsigned = Simd<float>::Unsigned;
  const Unsigned bits = bit_cast<Unsigned>(value);
  const Unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value == value ? rounded : Unsigned{} + 0x7fc0;
}

MILKERNELS_INLINE Simd<float>::Unsigned narrow(Vector<float> value, Float16) {
  using Unsigned = Simd<float>::Unsigned;
  const Unsigned bits = bit_cast<Unsigned>(value);
  const Unsigned sign = bits & 0x80000000;
  const Unsigned magnitude = bits ^ sign;
  const Unsigned infinity_or_nan =
      magnitude > 0x7f800000 ? Unsigned{} + 0x7e00 : Unsigned{} + 0x7c00;
  const Vector<float> shifted = bit_cast<Vector<float>>(magnitude) + 0.5f;
  const Unsigned subnormal = bit_cast<Unsigned>(shifted) - 0x3f000000;
  const Unsigned normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  Unsigned result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x47800000 ? infinity_or_nan : result;
  return result | (sign >> 16);
}

template <class E>
MILKERNELS_INLINE Vector<Arithmetic<E>> load(const E* from) {
  if constexpr (sizeof(E) >= 4) {
    Vector<E> vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
  } else {
    Simd<float>::Half bits;
    std::memcpy(&bits, from, sizeof bits);
    return widen(__builtin_convertvector(bits, Simd<float>::Unsigned), E{});
  }
}

template <class E>
MILKERNELS_INLINE void store(E* to, Vector<Arithmetic<E>> value) {
  if constexpr (sizeof(E) >= 4) {
    std::memcpy(to, &value, sizeof value);
  } else {
    const auto bits = __builtin_convertvector(narrow(value, E{}), Simd<float>::Half);
    std::memcpy(to, &bits, sizeof bits);
  }
}

// Brings a line nearer that is read soon; there may be no memory at the address. What calls it and
// does nothing else must be inlined: GCC takes a call without effects away.
MILKERNELS_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }
MILKERNELS_INLINE void prefetch_to_write(void* address) { __builtin_prefetch(address, 1, 3); }

// Asks for what a walk along memory reads when it has read about 4 KiB more than these vectors.
// Processors follow such a walk by themselves, but lose it where groups of vectors end with a row.
template <int kVectors, class E>
MILKERNELS_INLINE void fetch_ahead(const E* from) {
  constexpr int64_t kAhead = 4096 / static_cast<int64_t>(sizeof(E));
  MILKERNELS_UNROLL
  for (int k = 0; k < kVectors; ++k) prefetch(from + kAhead + k * kLanes<Arithmetic<E>>);
}

// AddressSanitizer does not see these instructions: a build with it does without.
#if defined(__AVX2__) && !defined(__SANITIZE_ADDRESS__)
#define MILKERNELS_MASKED_AVX2
#endif

// The first `count` lanes, in memory that may end there; the others are 0.
template <class E>
MILKERNELS_INLINE Vector<Arithmetic<E>> load_first(const E* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(E) == 4)
    return bit_cast<Vector<E>>(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
#elif defined(MILKERNELS_MASKED_AVX2)
  if constexpr (sizeof(E) == 4)
    return bit_cast<Vector<E>>(
        _mm256_maskload_ps(from, bit_cast<__m256i>(first_lanes<float>(count))));
#endif
  E padded[kLanes<Arithmetic<E>>] = {};
  for (int64_t lane = 0; lane < count; ++lane) padded[lane] = from[lane];
  return load(padded);
}

template <class E>
MILKERNELS_INLINE void store_first(E* to, Vector<Arithmetic<E>> value, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(E) == 4) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), bit_cast<__m512>(value));
    return;
  }
#elif defined(MILKERNELS_MASKED_AVX2)
  if constexpr (sizeof(E) == 4) {
    _mm256_maskstore_ps(to, bit_cast<__m256i>(first_lanes<float>(count)), bit_cast<__m256>(value));
    return;
  }
#endif
  E padded[kLanes<Arithmetic<E>>];
  store(padded, value);
  for (int64_t lane = 0; lane < count; ++lane) to[lane] = padded[lane];
}

// A value alone: the first lane of a vector may wait for memory that the others would come from.
template <class E>
MILKERNELS_INLINE Arithmetic<E> load_one(const E* from) {
  if constexpr (sizeof(E) >= 4)
    return *from;
  else
    return load_first(from, 1)[0];
}

template <class E>
MILKERNELS_INLINE void store_one(E* to, Arithmetic<E> value) {
  if constexpr (sizeof(E) >= 4)
    *to = value;
  else
    store_first(to, broadcast(value), 1);
}

// Lanes whose byte is not 0.
template <class T>
MILKERNELS_INLINE Integer<T> load_flags(const uint8_t* from, int64_t count) {
  typename Simd<T>::Bytes bytes{};
  if (count == kLanes<T>) {
    std::memcpy(&bytes, from, sizeof bytes);
  } else {
    for (int64_t lane = 0; lane < count; ++lane) bytes[lane] = from[lane];
  }
  return __builtin_convertvector(bytes, Integer<T>) != 0;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
