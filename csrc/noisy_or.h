// Noisy-or, y = 1 - Π (1 - x_i), and its gradient.
//
// The product is kept as (high + low) · 2^exponent: `low` holds what each multiplication and each
// 1 - x loses, so that y is exact for small frames and many of them, and nothing underflows.
#pragma once

#include "formula.h"
#include "gather.h"
#include "scatter.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class T>
struct Product {
  Vector<T> high = broadcast(T(1));
  Vector<T> low{};
};

// a · b - product exactly, where product is a · b rounded.
template <class T>
MILKERNELS_INLINE Vector<T> rounding_of(Vector<T> a, Vector<T> b, Vector<T> product) {
#if defined(MILKERNELS_FUSED)
  return multiply_add(a, b, -product);
#else
  // Halves of a significand: their products are exact, and in this order their sums (Dekker).
  constexpr int64_t kUpper = sizeof(T) == 4 ? -(1ll << 12) : -(1ll << 27);
  constexpr auto kBits = static_cast<typename Simd<T>::Lane>(kUpper);
  const Vector<T> a_high = bit_cast<Vector<T>>(bit_cast<Integer<T>>(a) & kBits);
  const Vector<T> b_high = bit_cast<Vector<T>>(bit_cast<Integer<T>>(b) & kBits);
  const Vector<T> a_low = a - a_high;
  const Vector<T> b_low = b - b_high;
  return (((a_high * b_high - product) + a_high * b_low) + a_low * b_high) + a_low * b_low;
#endif
}

template <class T>
MILKERNELS_INLINE Product<T> multiply(const Product<T>& a, const Product<T>& b) {
  const Vector<T> high = a.high * b.high;
  const Vector<T> lost = rounding_of<T>(a.high, b.high, high);
  return {high, multiply_add(a.high, b.low, multiply_add(a.low, b.high, lost))};
}

// 1 - x, with what it loses.
template <class T>
MILKERNELS_INLINE Product<T> one_minus(Vector<T> x) {
  const Vector<T> one = broadcast(T(1));
  const Vector<T> high = one - x;
  const Vector<T> taken = high - one;
  return {high, (one - (high - taken)) - (x + taken)};
}

// 2^whole; 0 where that is below a normal number, infinity above.
template <class T>
MILKERNELS_INLINE Vector<T> power_of_two(Vector<T> whole) {
  const Vector<T> highest = broadcast(T(sizeof(T) == 4 ? 128 : 1024));
  return exp2(Vector<T>{}, whole > highest ? highest : whole);
}

// 1 - σ(raw) for one frame, and the exponent that is kept apart where it is small.
template <class T>
MILKERNELS_INLINE Product<T> one_minus_sigmoid(Vector<T> raw, Vector<T>& exponent) {
  const Vector<T> zero{};
  const Vector<T> one = broadcast(T(1));
  // Beyond this 1 - σ(raw) is 0 in any type.
  const Vector<T> limit = broadcast(T(-1e6));
  Vector<T> minus = minus_magnitude<T>(raw);
  minus = minus < limit ? limit : minus;
  const auto [whole, rest] = exponent_of_two<T>(minus);
  const Vector<T> fraction = exp2(rest);
  const Vector<T> decay = fraction * power_of_two<T>(whole);
  const Vector<T> larger = one / (one + decay);
  const Product<T> of_small = one_minus<T>(decay * larger);
  const auto large = raw > zero;
  exponent = large ? whole : zero;
  return {large ? fraction * larger : of_small.high, large ? zero : of_small.low};
}

// Rows of a part: the product's two, its exponent, and how many frames are 1 and left out of it.
template <class E, bool kFromLogits>
struct NoisyOr {
  using T = Arithmetic<E>;
  static constexpr int kRows = kNoisyOrRows;
  using Sums = Rows<T, kRows>;

  static constexpr bool kScores = false;
  static constexpr bool kFewInstructions = false;
  static constexpr bool kLongChains = true;
  static constexpr bool kDecays = false;
  static constexpr bool kKeeps = false;
  static constexpr bool kChained = true;
  static constexpr bool kMergesByClass = false;

  struct Coefficients {
    template <class Choose>
    Coefficients each(const Choose&) const {
      return {};
    }
  };
  static Coefficients coefficients(const NoisyOrProblem&, int64_t, int64_t) { return {}; }

  // `high` in [1, 2) or (-2, -1], its power of two in the exponent.
  static Sums normalised(const Product<T>& product, Vector<T> exponent, Vector<T> ones) {
    using Lane = typename Simd<T>::Lane;
    constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
    constexpr Lane kBias = sizeof(T) == 4 ? 127 : 1023;
    const Integer<T> biased = (bit_cast<Integer<T>>(product.high) >> kMantissa) & (2 * kBias + 1);
    const Vector<T> scale = bit_cast<Vector<T>>((2 * kBias - biased) << kMantissa);
    const Vector<T> high = product.high * scale;
    const Vector<T> low = product.low * scale;
    const Vector<T> sum = high + low;
    return {{sum, low - (sum - high), exponent + to_floating(biased - kBias), ones}};
  }

  static Vector<float> to_floating(Integer<float> whole) {
    return __builtin_convertvector(whole, Vector<float>);
  }
  static Vector<double> to_floating(Integer<double> whole) {
    return __builtin_convertvector(whole, Vector<double>);
  }

  struct Gatherer {
    Sums sums{{broadcast(T(1)), {}, {}, {}}};

    template <int kCount, bool kAll>
    MILKERNELS_INLINE void gather(const Vector<T>* raw, const Vector<T>*, const Vector<T>*,
                                  const Integer<T>* real, const Coefficients&) {
      const Vector<T> zero{};
      const Vector<T> one = broadcast(T(1));
      Product<T> factors[kCount];
      Vector<T> exponent = sums.row[2];
      Vector<T> ones = sums.row[3];
      MILKERNELS_UNROLL
      for (int k = 0; k < kCount; ++k) {
        if constexpr (kFromLogits) {
          Vector<T> apart;
          factors[k] = one_minus_sigmoid<T>(raw[k], apart);
          if constexpr (!kAll) apart = real[k] ? apart : zero;
          exponent += apart;
        } else {
          factors[k] = one_minus<T>(raw[k]);
          auto is_one = factors[k].high == zero;
          if constexpr (!kAll) is_one &= real[k];
          ones += is_one ? one : zero;
          factors[k].high = is_one ? one : factors[k].high;
        }
        if constexpr (!kAll) {
          factors[k].high = real[k] ? factors[k].high : one;
          factors[k].low = real[k] ? factors[k].low : zero;
        }
      }
      MILKERNELS_UNROLL
      for (int width = kCount / 2; width > 0; width /= 2) MILKERNELS_UNROLL
      for (int k = 0; k < width; ++k) factors[k] = multiply(factors[k], factors[k + width]);
      sums = normalised(multiply({sums.row[0], sums.row[1]}, factors[0]), exponent, ones);
    }

    const Sums& rows() const { return sums; }
  };

  static Sums merge(const Sums& a, const Sums& b, const Coefficients&) {
    const Product<T> product = multiply<T>({a.row[0], a.row[1]}, {b.row[0], b.row[1]});
    return normalised(product, a.row[2] + b.row[2], a.row[3] + b.row[3]);
  }

  static void write(const NoisyOrProblem& problem, int64_t cell, int64_t count, const Sums& sums,
                    const Coefficients&) {
    const Vector<T> zero{};
    const Vector<T> one = broadcast(T(1));
    const Vector<T> scale = power_of_two<T>(sums.row[2]);
    const Vector<T> of_product = (one - sums.row[0] * scale) - sums.row[1] * scale;
    const auto several = sums.row[3] > one;
    store_bags<E>(problem, cell, sums.row[3] > zero ? one : of_product, count);
    const int64_t cells = problem.bags * problem.classes;
    T* statistics = static_cast<T*>(problem.statistics) + cell;
    store_lanes(statistics + kFactor * cells, several ? zero : sums.row[0] + sums.row[1], count);
    store_lanes(statistics + kExponent * cells, sums.row[2], count);
    store_lanes(statistics + kOnes * cells, sums.row[3], count);
  }
};

// dx_i is g times the product without its own factor; from logits dz_i = g (1 - y) x_i.
template <class E, bool kFromLogits>
struct NoisyOrGradient {
  using T = Arithmetic<E>;
  static constexpr bool kReadsFrames = true;
  static constexpr bool kLongChains = kFromLogits;

  // g · product = scaled · half · other_half, where one factor of two might underflow too early.
  struct Constants {
    Vector<T> scaled;
    Vector<T> half;
    Vector<T> other_half;
    Integer<T> one_is_1;

    template <class Choose>
    MILKERNELS_INLINE Constants each(const Choose& choose) const {
      return {choose(scaled), choose(half), choose(other_half), choose(one_is_1)};
    }
  };

  static Constants constants(const NoisyOrProblem& problem, int64_t cell, int64_t count) {
    const int64_t cells = problem.bags * problem.classes;
    const T* statistics = static_cast<const T*>(problem.statistics) + cell;
    const Vector<T> gradient = bag_gradients<E>(problem, cell, count);
    const Vector<T> exponent = load_lanes(statistics + kExponent * cells, count);
    const Vector<T> half = ceiling(exponent * T(0.5));
    return {gradient * load_lanes(statistics + kFactor * cells, count), power_of_two<T>(half),
            power_of_two<T>(exponent - half),
            load_lanes(statistics + kOnes * cells, count) == T(1)};
  }

  static MILKERNELS_INLINE Vector<T> gradient(const Constants& bag, Vector<T> raw) {
    if constexpr (kFromLogits) {
      return bag.scaled * sigmoid<T>(raw).value * bag.half * bag.other_half;
    } else {
      const Vector<T> zero{};
      const Vector<T> one = broadcast(T(1));
      const Vector<T> factor = one - raw;
      const auto is_1 = factor == zero;
      const Vector<T> others = bag.scaled / (is_1 ? one : factor) * bag.half * bag.other_half;
      return (is_1 ^ bag.one_is_1) ? zero : others;
    }
  }

  static void finish(const NoisyOrProblem&, int64_t, int64_t, int64_t) {}
};

template <class E>
void noisy_or_forward(const NoisyOrProblem& problem) {
  problem.from_logits ? gather<E, NoisyOr<E, true>>(problem)
                      : gather<E, NoisyOr<E, false>>(problem);
}

template <class E>
void noisy_or_backward(const NoisyOrProblem& problem) {
  problem.from_logits ? scatter<E, NoisyOrGradient<E, true>>(problem)
                      : scatter<E, NoisyOrGradient<E, false>>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
