// Vectors of float or double at the width of the instruction set that this file is compiled for:
// their arithmetic, and what moves or folds their lanes. In one namespace per instruction set, so
// that the copies stay apart.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "arguments.h"

// A call would spill every vector: none is preserved over it.
#define MILKERNELS_INLINE inline __attribute__((always_inline))
#define MILKERNELS_INLINE_LAMBDA __attribute__((always_inline))
#define MILKERNELS_UNLIKELY(condition) __builtin_expect(condition, false)

// Where multiply_add rounds once.
#if defined(__AVX512F__) || defined(__FMA__) || defined(__aarch64__)
#define MILKERNELS_FUSED
#endif

// A loop over arrays of vectors that is not unrolled keeps them in memory.
#if defined(__clang__)
#define MILKERNELS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MILKERNELS_UNROLL _Pragma("GCC unroll 16")
#endif

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int kLanes = kBytes / 4;
  using Lane = int32_t;
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef int32_t Integer __attribute__((vector_size(kBytes)));
  typedef uint32_t Unsigned __attribute__((vector_size(kBytes)));
  typedef uint16_t Half __attribute__((vector_size(kBytes / 2)));
  typedef uint8_t Bytes __attribute__((vector_size(kBytes / 4)));
};

template <>
struct Simd<double> {
  static constexpr int kLanes = kBytes / 8;
  using Lane = int64_t;
  typedef double Vector __attribute__((vector_size(kBytes)));
  typedef int64_t Integer __attribute__((vector_size(kBytes)));
  typedef uint8_t Bytes __attribute__((vector_size(kBytes / 8)));
};

#if defined(__AVX512F__)
constexpr uint16_t kEveryLane = 0xffff;
#endif

template <class T>
using Vector = typename Simd<T>::Vector;
template <class T>
using Integer = typename Simd<T>::Integer;
template <class T>
constexpr int kLanes = Simd<T>::kLanes;

template <class To, class From>
MILKERNELS_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
MILKERNELS_INLINE Vector<T> broadcast(T value) {
  // Adding to 0 would be an instruction more, and lose the sign of -0.
  return value - Vector<T>{};
}

// 0, 1, 2, ...
template <class T>
MILKERNELS_INLINE Integer<T> lane_numbers() {
  Integer<T> numbers{};
  for (int lane = 0; lane < kLanes<T>; ++lane) numbers[lane] = lane;
  return numbers;
}

template <class T>
MILKERNELS_INLINE Integer<T> every_lane() {
  return Integer<T>{} - 1;
}

// In every lane the vector's lane `from`, or in each lane its own. By reference: a copy would be
// stored for one of its lanes to be read.
template <class V>
MILKERNELS_INLINE V chosen(const V& vector, int64_t from) {
  return vector[from] - V{};
}
#if defined(__AVX512F__)
MILKERNELS_INLINE Vector<float> chosen(Vector<float> vector, Integer<float> from) {
  return bit_cast<Vector<float>>(
      _mm512_maskz_permutexvar_ps(kEveryLane, bit_cast<__m512i>(from), bit_cast<__m512>(vector)));
}
MILKERNELS_INLINE Integer<float> chosen(Integer<float> vector, Integer<float> from) {
  return bit_cast<Integer<float>>(chosen(bit_cast<Vector<float>>(vector), from));
}
#endif

// All bits set in the first `count` lanes.
template <class T>
MILKERNELS_INLINE Integer<T> first_lanes(int64_t count) {
  return lane_numbers<T>() < static_cast<typename Simd<T>::Lane>(count);
}

// A mask's bits, as many for each lane; without such an instruction, whether there are any.
template <class I>
MILKERNELS_INLINE uint64_t bits_of(I mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(bit_cast<__m512i>(mask), bit_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_epi8(bit_cast<__m256i>(mask)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_epi8(bit_cast<__m128i>(mask)));
#else
  uint64_t halves[2];
  std::memcpy(halves, &mask, sizeof halves);
  return halves[0] | halves[1];
#endif
}

template <class I>
MILKERNELS_INLINE bool any(I mask) {
  return bits_of(mask) != 0;
}

// The first lane of a mask that has one.
template <class T>
MILKERNELS_INLINE int first_of(Integer<T> mask) {
#if defined(__AVX512F__)
  return __builtin_ctzll(bits_of(mask)) * 4 / static_cast<int>(sizeof(T));
#elif defined(__SSE2__)
  return __builtin_ctzll(bits_of(mask)) / static_cast<int>(sizeof(T));
#else
  int lane = 0;
  while (!mask[lane]) ++lane;
  return lane;
#endif
}

// a · b + c, rounded once where the machine can. Contraction is left to no compiler: the forward
// and the backward pass must compute a weight to the same bit.
MILKERNELS_INLINE Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(
      _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
#elif defined(__FMA__)
  return bit_cast<Vector<float>>(
      _mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
#elif defined(__aarch64__)
  return bit_cast<Vector<float>>(
      vfmaq_f32(bit_cast<float32x4_t>(c), bit_cast<float32x4_t>(a), bit_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

MILKERNELS_INLINE Vector<double> multiply_add(Vector<double> a, Vector<double> b,
                                              Vector<double> c) {
#if defined(__AVX512F__)
  return bit_cast<Vector<double>>(
      _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
#elif defined(__FMA__)
  return bit_cast<Vector<double>>(
      _mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
#elif defined(__aarch64__)
  return bit_cast<Vector<double>>(
      vfmaq_f64(bit_cast<float64x2_t>(c), bit_cast<float64x2_t>(a), bit_cast<float64x2_t>(b)));
#else
  return a * b + c;
#endif
}

// The polynomial with these coefficients, the highest power first.
template <class... Rest>
MILKERNELS_INLINE Vector<float> polynomial(Vector<float> x, float first, Rest... rest) {
  Vector<float> value = broadcast(first);
  ((value = multiply_add(value, x, broadcast(static_cast<float>(rest)))), ...);
  return value;
}

// -|x|, by its sign bit.
template <class T>
MILKERNELS_INLINE Vector<T> minus_magnitude(Vector<T> x) {
  const auto sign = bit_cast<Integer<T>>(broadcast(T(-0.0)));
  return bit_cast<Vector<T>>(bit_cast<Integer<T>>(x) | sign);
}

// NaN in `a` stays, NaN in `b` is passed over.
template <class V>
MILKERNELS_INLINE V maximum(V a, V b) {
  return b > a ? b : a;
}
template <class V>
MILKERNELS_INLINE V minimum(V a, V b) {
  return b < a ? b : a;
}

// A few vectors combined, in pairs and those in pairs: none waits for more than it must.
template <int kCount, class V, class Combine>
MILKERNELS_INLINE V together(const V* vectors, const Combine& combine) {
  if constexpr (kCount == 1) {
    return vectors[0];
  } else {
    return combine(together<kCount / 2>(vectors, combine),
                   together<kCount - kCount / 2>(vectors + kCount / 2, combine));
  }
}

// Σ a_k · b_k in the same order, the first two rounded together.
template <int kCount, class V>
MILKERNELS_INLINE V sum_of_products(const V* a, const V* b) {
  if constexpr (kCount == 1) {
    return a[0] * b[0];
  } else if constexpr (kCount == 2) {
    return multiply_add(a[1], b[1], a[0] * b[0]);
  } else {
    constexpr int kHalf = kCount / 2;
    return sum_of_products<kHalf>(a, b) + sum_of_products<kCount - kHalf>(a + kHalf, b + kHalf);
  }
}

#if defined(__clang__) || __GNUC__ >= 12
// Each lane's neighbour `kDistance` lanes away, in registers.
template <int kDistance, class V, int... kLane>
MILKERNELS_INLINE V neighbours(V vector, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(vector, vector, (kLane ^ kDistance)...);
}

// One lane of the halves, quarters, ... combined: the order of the loop below.
template <class T, int kDistance, class Combine>
MILKERNELS_INLINE T fold_lanes(Vector<T> vector, const Combine& combine) {
  if constexpr (kDistance == 0) {
    return vector[0];
  } else {
    const auto lanes = std::make_integer_sequence<int, kLanes<T>>();
    const Vector<T> other = neighbours<kDistance>(vector, lanes);
    return fold_lanes<T, kDistance / 2>(combine(vector, other), combine);
  }
}
#else
template <class T, int kDistance, class Combine>
MILKERNELS_INLINE T fold_lanes(Vector<T> vector, const Combine& combine) {
  for (int distance = kDistance; distance > 0; distance /= 2) {
    Vector<T> other = vector;
    for (int lane = 0; lane < distance; ++lane) other[lane] = vector[lane + distance];
    vector = combine(vector, other);
  }
  return vector[0];
}
#endif

// The upper lanes of each block of 2 · kDistance change places with the lower of another vector.
#if defined(__clang__) || __GNUC__ >= 12
template <class T, int kDistance, int... kLane>
MILKERNELS_INLINE void swap_blocks(Vector<T>& upper, Vector<T>& lower,
                                   std::integer_sequence<int, kLane...>) {
  const Vector<T> a = upper, b = lower;
  upper =
      __builtin_shufflevector(a, b, (kLane & kDistance ? kLanes<T> + kLane - kDistance : kLane)...);
  lower =
      __builtin_shufflevector(a, b, (kLane & kDistance ? kLanes<T> + kLane : kLane + kDistance)...);
}
#else
template <class T, int kDistance, class Lanes>
MILKERNELS_INLINE void swap_blocks(Vector<T>& upper, Vector<T>& lower, Lanes) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    if (!(lane & kDistance)) continue;
    const T moved = upper[lane];
    upper[lane] = lower[lane - kDistance];
    lower[lane - kDistance] = moved;
  }
}
#endif

// Rows to columns, in place, in square blocks of kSize lanes: as many vectors as that.
template <class T, int kSize = kLanes<T>, int kDistance = kSize / 2>
MILKERNELS_INLINE void transpose(Vector<T>* rows) {
  MILKERNELS_UNROLL
  for (int row = 0; row < kSize; ++row)
    if (!(row & kDistance))
      swap_blocks<T, kDistance>(rows[row], rows[row + kDistance],
                                std::make_integer_sequence<int, kLanes<T>>());
  if constexpr (kDistance > 1) transpose<T, kSize, kDistance / 2>(rows);
}

template <class T>
MILKERNELS_INLINE T sum_of_lanes(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <class T>
MILKERNELS_INLINE T largest_lane(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector,
                                      [](Vector<T> a, Vector<T> b) { return maximum(a, b); });
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
