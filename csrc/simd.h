// Vectors of float or double at the width of the instruction set that this file is compiled for,
// and the few functions of them that pooling needs. Included inside one namespace per instruction
// set, so that the copies stay apart.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "arguments.h"

// A call would spill every vector: none is preserved over it.
#define MILKERNELS_INLINE inline __attribute__((always_inline))
#define MILKERNELS_INLINE_LAMBDA __attribute__((always_inline))

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

// All bits set in the first `count` lanes.
template <class T>
MILKERNELS_INLINE Integer<T> first_lanes(int64_t count) {
  return lane_numbers<T>() < static_cast<typename Simd<T>::Lane>(count);
}

template <class I>
MILKERNELS_INLINE bool any(I mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(bit_cast<__m512i>(mask), bit_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(bit_cast<__m256i>(mask)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_epi8(bit_cast<__m128i>(mask)) != 0;
#else
  int64_t halves[2];
  std::memcpy(halves, &mask, sizeof halves);
  return (halves[0] | halves[1]) != 0;
#endif
}

// a · b + c, rounded once where the machine can. Contraction is left to no compiler: the forward and
// the backward pass must compute a weight to the same bit.
MILKERNELS_INLINE Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(
      _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
#elif defined(__FMA__)
  return bit_cast<Vector<float>>(
      _mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

MILKERNELS_INLINE Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
#if defined(__AVX512F__)
  return bit_cast<Vector<double>>(
      _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
#elif defined(__FMA__)
  return bit_cast<Vector<double>>(
      _mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
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

// Rows to columns, in place: as many vectors as they have lanes.
#if defined(__clang__) || __GNUC__ >= 12
template <class T, int kDistance, int... kLane>
MILKERNELS_INLINE void swap_blocks(Vector<T>& upper, Vector<T>& lower,
                                   std::integer_sequence<int, kLane...>) {
  const Vector<T> a = upper, b = lower;
  upper = __builtin_shufflevector(
      a, b, (kLane & kDistance ? kLanes<T> + kLane - kDistance : kLane)...);
  lower = __builtin_shufflevector(
      a, b, (kLane & kDistance ? kLanes<T> + kLane : kLane + kDistance)...);
}

template <class T, int kDistance = kLanes<T> / 2>
MILKERNELS_INLINE void transpose(Vector<T>* rows) {
  MILKERNELS_UNROLL
  for (int row = 0; row < kLanes<T>; ++row)
    if (!(row & kDistance))
      swap_blocks<T, kDistance>(rows[row], rows[row + kDistance],
                                std::make_integer_sequence<int, kLanes<T>>());
  if constexpr (kDistance > 1) transpose<T, kDistance / 2>(rows);
}
#else
template <class T>
inline void transpose(Vector<T>* rows) {
  for (int row = 0; row < kLanes<T>; ++row)
    for (int lane = 0; lane < row; ++lane) {
      const T moved = rows[row][lane];
      rows[row][lane] = rows[lane][row];
      rows[lane][row] = moved;
    }
}
#endif

template <class T>
MILKERNELS_INLINE T sum_of_lanes(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <class T>
MILKERNELS_INLINE T largest_lane(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector,
                                      [](Vector<T> a, Vector<T> b) { return maximum(a, b); });
}

// The nearest whole number, up to 2^22.
MILKERNELS_INLINE Vector<float> nearest(Vector<float> x) {
#if defined(__AVX512F__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return bit_cast<Vector<float>>(
      _mm512_maskz_roundscale_ps(kEveryLane, bit_cast<__m512>(x), kNearest));
#else
  const Vector<float> to_whole = broadcast(12582912.0f);  // 1.5 * 2^23
  return (x + to_whole) - to_whole;
#endif
}

MILKERNELS_INLINE Vector<double> nearest(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::nearbyint(x[lane]);
  return x;
}

// value · 2^exponent for a whole exponent, 0 where that is below -126.
MILKERNELS_INLINE Vector<float> times_power_of_two(Vector<float> value, Vector<float> exponent) {
  const Vector<float> least = broadcast(-126.0f);
#if defined(__AVX512F__)
  const __m512 power = bit_cast<__m512>(exponent);
  // NaN is not below, and stays.
  const __mmask16 kept = _mm512_cmp_ps_mask(power, bit_cast<__m512>(least), _CMP_NLT_UQ);
  return bit_cast<Vector<float>>(_mm512_maskz_scalef_ps(kept, bit_cast<__m512>(value), power));
#else
  const Integer<float> scale = (__builtin_convertvector(exponent, Integer<float>) + 127) << 23;
  const Vector<float> result = value * bit_cast<Vector<float>>(scale);
  return exponent < least ? Vector<float>{} : result;
#endif
}

// 2^x on [-1/2, 1/2]: the best polynomial of its degree.
MILKERNELS_INLINE Vector<float> exp2_of_fraction(Vector<float> x) {
  return polynomial(x, 1.53533605e-4f, 1.33988750e-3f, 9.61843692e-3f, 5.55033237e-2f,
                    2.40226477e-1f, 6.93147182e-1f, 1.0f);
}

// 2^(x + exponent) for a whole exponent and a sum up to 1: relative error below 1.2e-7, exact where
// x is whole, 0 below -126.
MILKERNELS_INLINE Vector<float> exp2(Vector<float> x, Vector<float> exponent) {
  const Vector<float> whole = nearest(x);
  return times_power_of_two(exp2_of_fraction(x - whole), whole + exponent);
}

MILKERNELS_INLINE Vector<float> exp2(Vector<float> x) {
  const Vector<float> whole = nearest(x);
  return times_power_of_two(exp2_of_fraction(x - whole), whole);
}

MILKERNELS_INLINE Vector<double> exp2(Vector<double> x, Vector<double> exponent) {
  x += exponent;
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp2(x[lane]);
  return x;
}

MILKERNELS_INLINE Vector<double> exp2(Vector<double> x) { return exp2(x, Vector<double>{}); }

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;

// x · log2 e as a whole number and what is left, which the product alone would round by |x| units.
template <class V>
struct Exponent {
  V whole;
  V rest;
};

template <class T>
MILKERNELS_INLINE Exponent<Vector<T>> exponent_of_two(Vector<T> x) {
  constexpr T kHigh = T(kLog2E);
  constexpr T kLow = sizeof(T) == 4 ? T(kLog2E - double(kHigh)) : T(2.0355273740931033e-17);
  const Vector<T> whole = nearest(x * kHigh);
  const Vector<T> rest = multiply_add(x, broadcast(kHigh), -whole);
  return {whole, multiply_add(x, broadcast(kLow), rest)};
}

// e^x for x up to 0, with the error of exp2; 0 below 2^-126.
MILKERNELS_INLINE Vector<float> exp(Vector<float> x) {
  const Exponent<Vector<float>> exponent = exponent_of_two<float>(x);
  return times_power_of_two(exp2_of_fraction(exponent.rest), exponent.whole);
}

MILKERNELS_INLINE Vector<double> exp(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// The smallest whole number at least x.
MILKERNELS_INLINE Vector<float> ceiling(Vector<float> x) {
  const Vector<float> near = nearest(x);
  const Vector<float> up = near < x ? near + 1.0f : near;
  // Beyond 2^22 the rounding above fails, and exactness no longer matters.
  return (x < broadcast(4194304.0f)) & (x > broadcast(-4194304.0f)) ? up : x;
}

MILKERNELS_INLINE Vector<double> ceiling(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::ceil(x[lane]);
  return x;
}

// 1 / x of a number between 1 and 2, within one unit in its last place.
MILKERNELS_INLINE Vector<float> reciprocal(Vector<float> x) {
#if defined(__AVX512F__)
  const __m512 divisor = bit_cast<__m512>(x);
  const __m512 start = _mm512_maskz_rcp14_ps(kEveryLane, divisor);
  const __m512 rest = _mm512_fnmadd_ps(divisor, start, bit_cast<__m512>(broadcast(1.0f)));
  return bit_cast<Vector<float>>(_mm512_fmadd_ps(start, rest, start));
#else
  return 1.0f / x;
#endif
}

MILKERNELS_INLINE Vector<double> reciprocal(Vector<double> x) { return 1.0 / x; }

MILKERNELS_INLINE Vector<float> square_root(Vector<float> x) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_maskz_sqrt_ps(kEveryLane, bit_cast<__m512>(x)));
#elif defined(__AVX2__)
  return bit_cast<Vector<float>>(_mm256_sqrt_ps(bit_cast<__m256>(x)));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
#endif
}

MILKERNELS_INLINE Vector<double> square_root(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
}

// log x = whole · ln 2 + rest: kept apart, the two lose nothing to each other's rounding.
template <class T>
struct Logarithm {
  Vector<T> whole;
  Vector<T> rest;
};

// Of a positive normal number; |rest| is at most 0.35, its error below 4e-8.
MILKERNELS_INLINE Logarithm<float> logarithm(Vector<float> x) {
  // x = 2^whole · mantissa with a mantissa in [√½, √2), counted from the bits of √½.
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const Integer<float> bits = bit_cast<Integer<float>>(x);
  const Integer<float> whole = (bits - kRootHalf) >> 23;
  const Vector<float> exponent = __builtin_convertvector(whole, Vector<float>);
  const Vector<float> t = bit_cast<Vector<float>>(bits - (whole << 23)) - 1.0f;
  const Vector<float> square = t * t;
  const Vector<float> series = polynomial(
      t, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
      1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
  const Vector<float> rest = t + multiply_add(series, t * square, -0.5f * square);
  return {exponent, x == x ? rest : x};
}

MILKERNELS_INLINE Logarithm<double> logarithm(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::log(x[lane]);
  return {Vector<double>{}, x};
}

// Element types in memory, and loads and stores that widen and round them.

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

// Brings a line nearer that is read soon; there may be no memory at the address.
MILKERNELS_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// The first `count` lanes, in memory that may end there; the others are 0.
template <class E>
MILKERNELS_INLINE Vector<Arithmetic<E>> load_first(const E* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(E) == 4)
    return bit_cast<Vector<E>>(
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
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
#endif
  E padded[kLanes<Arithmetic<E>>];
  store(padded, value);
  for (int64_t lane = 0; lane < count; ++lane) to[lane] = padded[lane];
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
