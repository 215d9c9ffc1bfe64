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

template <class T>
using Vector = typename Simd<T>::Vector;
template <class T>
using Integer = typename Simd<T>::Integer;
template <class T>
constexpr int kLanes = Simd<T>::kLanes;

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
inline Vector<T> broadcast(T value) {
  // Adding to 0 would be an instruction more, and lose the sign of -0.
  return value - Vector<T>{};
}

// 0, 1, 2, ...
template <class T>
inline Integer<T> lane_numbers() {
  Integer<T> numbers{};
  for (int lane = 0; lane < kLanes<T>; ++lane) numbers[lane] = lane;
  return numbers;
}

// All bits set in the first `count` lanes.
template <class T>
inline Integer<T> first_lanes(int64_t count) {
  return lane_numbers<T>() < static_cast<typename Simd<T>::Lane>(count);
}

template <class I>
inline bool any(I mask) {
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
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
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

inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
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
inline Vector<float> polynomial(Vector<float> x, float first, Rest... rest) {
  Vector<float> value = broadcast(first);
  ((value = multiply_add(value, x, broadcast(static_cast<float>(rest)))), ...);
  return value;
}

// NaN in `a` stays, NaN in `b` is passed over.
template <class V>
inline V maximum(V a, V b) {
  return b > a ? b : a;
}
template <class V>
inline V minimum(V a, V b) {
  return b < a ? b : a;
}

#if defined(__clang__) || __GNUC__ >= 12
// Each lane's neighbour `kDistance` lanes away, in registers.
template <int kDistance, class V, int... kLane>
inline V neighbours(V vector, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(vector, vector, (kLane ^ kDistance)...);
}

// One lane of the halves, quarters, ... combined: the order of the loop below.
template <class T, int kDistance, class Combine>
inline T fold_lanes(Vector<T> vector, const Combine& combine) {
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
inline T fold_lanes(Vector<T> vector, const Combine& combine) {
  for (int distance = kDistance; distance > 0; distance /= 2) {
    Vector<T> other = vector;
    for (int lane = 0; lane < distance; ++lane) other[lane] = vector[lane + distance];
    vector = combine(vector, other);
  }
  return vector[0];
}
#endif

template <class T>
inline T sum_of_lanes(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <class T>
inline T largest_lane(Vector<T> vector) {
  return fold_lanes<T, kLanes<T> / 2>(vector,
                                      [](Vector<T> a, Vector<T> b) { return maximum(a, b); });
}

// The nearest whole number, up to 2^22.
inline Vector<float> nearest(Vector<float> x) {
  const Vector<float> to_whole = broadcast(12582912.0f);  // 1.5 * 2^23
  return (x + to_whole) - to_whole;
}

inline Vector<double> nearest(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::nearbyint(x[lane]);
  return x;
}

// 2^(x + exponent) for a whole exponent and a sum up to 1: relative error below 1.2e-7, exact where
// x is whole, 0 below -126.
inline Vector<float> exp2(Vector<float> x, Vector<float> exponent) {
  const Vector<float> whole = nearest(x);
  const Vector<float> rest = (x - whole) * 0.693147180559945309f;
  const Vector<float> series = polynomial(rest, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f);
  const Vector<float> power = multiply_add(series, rest * rest, rest) + 1.0f;
  const Vector<float> sum = whole + exponent;
  const Integer<float> scale = (__builtin_convertvector(sum, Integer<float>) + 127) << 23;
  const Vector<float> result = power * bit_cast<Vector<float>>(scale);
  return sum < broadcast(-126.0f) ? Vector<float>{} : result;
}

inline Vector<double> exp2(Vector<double> x, Vector<double> exponent) {
  x += exponent;
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp2(x[lane]);
  return x;
}

template <class V>
inline V exp2(V x) {
  return exp2(x, V{});
}

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;

// The smallest whole number at least x.
inline Vector<float> ceiling(Vector<float> x) {
  const Vector<float> near = nearest(x);
  const Vector<float> up = near < x ? near + 1.0f : near;
  // Beyond 2^22 the rounding above fails, and exactness no longer matters.
  return (x < broadcast(4194304.0f)) & (x > broadcast(-4194304.0f)) ? up : x;
}

inline Vector<double> ceiling(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::ceil(x[lane]);
  return x;
}

inline Vector<float> square_root(Vector<float> x) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_maskz_sqrt_ps(0xffff, bit_cast<__m512>(x)));
#elif defined(__AVX2__)
  return bit_cast<Vector<float>>(_mm256_sqrt_ps(bit_cast<__m256>(x)));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
#endif
}

inline Vector<double> square_root(Vector<double> x) {
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
inline Logarithm<float> logarithm(Vector<float> x) {
  const Integer<float> bits = bit_cast<Integer<float>>(x);
  Vector<float> mantissa = bit_cast<Vector<float>>((bits & 0x007fffff) | 0x3f000000);
  Vector<float> exponent = __builtin_convertvector((bits >> 23) - 126, Vector<float>);
  const Integer<float> low = mantissa < broadcast(0.707106781186547524f);
  exponent = low ? exponent - 1.0f : exponent;
  const Vector<float> t = (low ? mantissa + mantissa : mantissa) - 1.0f;
  const Vector<float> square = t * t;
  const Vector<float> series = polynomial(
      t, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
      1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
  const Vector<float> rest = t + multiply_add(series, t * square, -0.5f * square);
  return {exponent, x == x ? rest : x};
}

inline Logarithm<double> logarithm(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::log(x[lane]);
  return {Vector<double>{}, x};
}

// Element types in memory, and loads and stores that widen and round them.

inline Vector<float> widen(Simd<float>::Unsigned bits, BFloat16) {
  return bit_cast<Vector<float>>(bits << 16);
}

inline Vector<float> widen(Simd<float>::Unsigned bits, Float16) {
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

inline Simd<float>::Unsigned narrow(Vector<float> value, BFloat16) {
  using Unsigned = Simd<float>::Unsigned;
  const Unsigned bits = bit_cast<Unsigned>(value);
  const Unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value == value ? rounded : Unsigned{} + 0x7fc0;
}

inline Simd<float>::Unsigned narrow(Vector<float> value, Float16) {
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
inline Vector<Arithmetic<E>> load(const E* from) {
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
inline void store(E* to, Vector<Arithmetic<E>> value) {
  if constexpr (sizeof(E) >= 4) {
    std::memcpy(to, &value, sizeof value);
  } else {
    const auto bits = __builtin_convertvector(narrow(value, E{}), Simd<float>::Half);
    std::memcpy(to, &bits, sizeof bits);
  }
}

// The first `count` lanes, in memory that may end there; the others are 0.
template <class E>
inline Vector<Arithmetic<E>> load_first(const E* from, int64_t count) {
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
inline void store_first(E* to, Vector<Arithmetic<E>> value, int64_t count) {
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
inline Integer<T> load_flags(const uint8_t* from, int64_t count) {
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
