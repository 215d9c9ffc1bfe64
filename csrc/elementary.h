// Exponentials, logarithms and roots of vectors: for float our own, for double lane by lane.
#pragma once

#include <cmath>
#include <limits>

#include "simd.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

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
  const Vector<T> whole = nearest(x * kHigh);
#if defined(MILKERNELS_FUSED)
  constexpr T kLow = sizeof(T) == 4 ? T(kLog2E - double(kHigh)) : T(2.0355273740931033e-17);
  const Vector<T> rest = multiply_add(x, broadcast(kHigh), -whole);
  return {whole, multiply_add(x, broadcast(kLow), rest)};
#else
  // ln 2 in two parts: whole numbers times the first, of few digits, are exact.
  constexpr T kLn2High = T(0.693359375);
  constexpr T kLn2Low = T(kLn2 - 0.693359375);
  return {whole, ((x - whole * kLn2High) - whole * kLn2Low) * kHigh};
#endif
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

// Stands for -inf as the peak of nothing: differences of it stay numbers.
constexpr float kLowest = -3.0e38f;

// Whole peaks in base 2 up to this stand for products that are within a sixteenth of them. What
// a larger one rounds off is many powers of two: weights below it are 0 or infinite, unless what is
// taken off it was rounded alike.
template <class T>
constexpr T kLargestPeak = sizeof(T) == 4 ? T(0x1p20) : T(0x1p49);

template <class T>
MILKERNELS_INLINE Integer<T> are_large(Vector<T> peak) {
  const Vector<T> largest = broadcast(kLargestPeak<T>);
  return (peak > largest) | ((peak < -largest) & (peak > broadcast(T(kLowest))));
}

// A number for every peak that is one, and for what overflows.
template <class T>
MILKERNELS_INLINE Vector<T> finite_peak(Vector<T> peak) {
  return minimum(peak, broadcast(std::numeric_limits<T>::max()));
}

// 2^log2 below a large peak, which is a rounded log2 itself.
template <class T>
MILKERNELS_INLINE Vector<T> exp2_below_large(Vector<T> log2, Vector<T> peak) {
  const Vector<T> distance = log2 - peak;
  return exp2(distance > Vector<T>{} ? Vector<T>{} : distance);
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
  const Vector<float> fourth = square * square;
  // Pairs of terms, and pairs of those: one after the other each would wait for the one before.
  const Vector<float> first = polynomial(t, -2.4999993993e-1f, 3.3333331174e-1f);
  const Vector<float> second = polynomial(t, -1.6668057665e-1f, 2.0000714765e-1f);
  const Vector<float> third = polynomial(t, -1.2420140846e-1f, 1.4249322787e-1f);
  const Vector<float> last = polynomial(t, -1.1514610310e-1f, 1.1676998740e-1f);
  const Vector<float> high =
      multiply_add(broadcast(7.0376836292e-2f), fourth, multiply_add(last, square, third));
  const Vector<float> series = multiply_add(high, fourth, multiply_add(second, square, first));
  const Vector<float> rest = t + multiply_add(series, t * square, -0.5f * square);
  return {exponent, x == x ? rest : x};
}

MILKERNELS_INLINE Logarithm<double> logarithm(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::log(x[lane]);
  return {Vector<double>{}, x};
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
