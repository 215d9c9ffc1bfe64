// Log-mean-exp, y = log(Σ exp(r x_i) / n) / r, and its gradients.
//
// A negative sharpness is a positive one of the negated frames. With R = |r| and u a frame's
// distance from a reference, t = R u, a part of a bag is
//   total Σ exp(t),  step Σ (exp(t) - 1) / R,  slope Σ t exp(t),
//   spread Σ (t exp(t) - exp(t) + 1) / R².
// Near t = 0 the quotients are series in t, so that nothing is lost as R goes to 0, where they are
// Σ u and Σ u² / 2: the mean and the variance. The reference is about the mean, so that these do
// not cancel, unless the largest frame is so far above it that its weight is all that counts.
#pragma once

#include "formula.h"
#include "gather.h"
#include "scatter.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }

// Coefficients of (exp(t) - 1) / t.
struct FirstQuotient {
  static constexpr double coefficient(int power) { return 1.0 / factorial(power + 1); }
};
// Of (t exp(t) - exp(t) + 1) / t².
struct SecondQuotient {
  static constexpr double coefficient(int power) { return 1.0 / (factorial(power) * (power + 2)); }
};
// Of (atanh(w) - w) / w³, in w².
struct Arctangent {
  static constexpr double coefficient(int power) { return 1.0 / (2 * power + 3); }
};

template <class T, class S, int kTerms>
struct SeriesCoefficients {
  T of[kTerms];
  constexpr SeriesCoefficients() : of() {
    for (int power = 0; power < kTerms; ++power) of[power] = static_cast<T>(S::coefficient(power));
  }
};

// The power series S: relative error below 3e-8, or 1e-16 of double, for |x| up to 1/2 (of the
// arctangent, 1/9).
template <class T, class S>
MILKERNELS_INLINE Vector<T> series(Vector<T> x) {
  constexpr int kTerms = sizeof(T) == 4 ? 9 : 16;
  static constexpr SeriesCoefficients<T, S, kTerms> coefficients;
  Vector<T> value = broadcast(coefficients.of[kTerms - 1]);
  MILKERNELS_UNROLL
  for (int power = kTerms - 2; power >= 0; --power)
    value = multiply_add(value, x, broadcast(coefficients.of[power]));
  return value;
}

// exp(R u) and its two quotients, times what they lack to be step and spread.
template <class T>
struct Terms {
  Vector<T> exponent;
  Vector<T> exponential;
  Vector<T> step;
  Vector<T> spread;
};

// How far above the reference, in t, a frame may lie: as a group gives one, and before it is
// raised.
constexpr float kAbove = 4;
constexpr float kTooFarAbove = 8;

template <class T>
struct Sharpness {
  Vector<T> size;
  Vector<T> sign;
  Vector<T> inverse;

  Sharpness() : Sharpness(Vector<T>{}) {}
  explicit Sharpness(Vector<T> r)
      : size(r < T(0) ? -r : r),
        sign(r < T(0) ? broadcast(T(-1)) : broadcast(T(1))),
        inverse(r == T(0) ? Vector<T>{} : T(1) / size) {}

  template <class Choose>
  MILKERNELS_INLINE Sharpness each(const Choose& choose) const {
    Sharpness chosen;
    chosen.size = choose(size);
    chosen.sign = choose(sign);
    chosen.inverse = choose(inverse);
    return chosen;
  }

  MILKERNELS_INLINE Vector<T> exponent(Vector<T> distance) const {
    // Far below, exp is 0 in any case, and a product with it must not be NaN.
    const Vector<T> limit = broadcast(T(sizeof(T) == 4 ? -200 : -2000));
    const Vector<T> t = size * distance;
    return t < limit ? limit : t;
  }

  static MILKERNELS_INLINE Vector<T> exponential(Vector<T> t) { return exp2(t * T(kLog2E)); }

  template <bool kSpread>
  MILKERNELS_INLINE Terms<T> terms(Vector<T> distance) const {
    const Vector<T> t = exponent(distance);
    const Vector<T> power = exponential(t);
    const auto near = (t > T(-0.5)) & (t < T(0.5));
    const Vector<T> step = near ? distance * series<T, FirstQuotient>(t) : (power - T(1)) * inverse;
    Vector<T> spread{};
    if constexpr (kSpread) {
      const Vector<T> far = multiply_add(power, t - T(1), broadcast(T(1)));
      spread = near ? distance * distance * series<T, SecondQuotient>(t) : far * inverse * inverse;
    }
    return {t, power, step, spread};
  }
};

template <class T>
MILKERNELS_INLINE Sharpness<T> load_sharpness(const LogMeanExpProblem& problem, int64_t class_index,
                                              int64_t count) {
  return Sharpness<T>(load_lanes(static_cast<const T*>(problem.sharpness) + class_index, count));
}

template <class E, bool kFromLogits, bool kLearn>
struct LogMeanExp {
  using T = Arithmetic<E>;
  static constexpr int kRows = kLearn ? kLogMeanExpRows : kLogMeanExpRows - 2;
  enum Row : int { kReference, kCount, kSum, kStep, kLow, kHigh, kSlope, kSpread };
  using Sums = Rows<T, kRows>;

  static constexpr bool kScores = false;
  static constexpr bool kFewInstructions = false;
  static constexpr bool kLongChains = true;
  static constexpr bool kDecays = false;
  static constexpr bool kKeeps = false;
  static constexpr bool kChained = false;
  static constexpr bool kMergesByClass = true;

  using Coefficients = Sharpness<T>;
  static Coefficients coefficients(const LogMeanExpProblem& problem, int64_t class_index,
                                   int64_t count) {
    return load_sharpness<T>(problem, class_index, count);
  }

  struct Gatherer {
    Vector<T> reference = broadcast(T(kLowest));
    Vector<T> count{};
    LongSum<T> total;
    LongSum<T> step;
    LongSum<T> slope;
    LongSum<T> spread;
    Vector<T> low = broadcast(T(__builtin_inf()));
    Vector<T> high = broadcast(T(-__builtin_inf()));

    template <int kFrames, bool kAll>
    MILKERNELS_INLINE void gather(const Vector<T>* raw, const Vector<T>*, const Vector<T>*,
                                  const Integer<T>* real, const Sharpness<T>& sharpness) {
      const Vector<T> zero{};
      Vector<T> x[kFrames];
      Vector<T> top = reference;
      Vector<T> sum_of_frames{};
      Vector<T> frames_taken{};
      MILKERNELS_UNROLL
      for (int k = 0; k < kFrames; ++k) {
        x[k] = raw[k];
        if constexpr (kFromLogits) x[k] = sigmoid<T>(raw[k]).value;
        x[k] *= sharpness.sign;
        Vector<T> one = broadcast(T(1));
        if constexpr (!kAll) {
          x[k] = real[k] ? x[k] : zero;
          one = real[k] ? one : zero;
        }
        sum_of_frames += x[k];
        frames_taken += one;
        const Vector<T> lower = minimum(low, x[k]);
        const Vector<T> higher = maximum(high, x[k]);
        const Vector<T> largest = maximum(top, x[k]);
        if constexpr (kAll) {
          low = lower;
          high = higher;
          top = largest;
        } else {
          low = real[k] ? lower : low;
          high = real[k] ? higher : high;
          top = real[k] ? largest : top;
        }
      }
      const Integer<T> some = top > reference;
      const Integer<T> raised =
          some & ((count == zero) | (sharpness.size * (top - reference) > T(kTooFarAbove)));
      if (any(raised)) {
        const Vector<T> middle = sum_of_frames / frames_taken;
        const auto above = sharpness.size * (top - middle) > T(kAbove);
        raise_reference(raised ? (above ? top : middle) : reference, sharpness);
      }
      Terms<T> sum{};
      MILKERNELS_UNROLL
      for (int k = 0; k < kFrames; ++k) {
        Terms<T> term = sharpness.template terms<kLearn>(x[k] - reference);
        Vector<T> one = broadcast(T(1));
        if constexpr (!kAll) {
          one = real[k] ? one : zero;
          term.exponential = real[k] ? term.exponential : zero;
          term.step = real[k] ? term.step : zero;
          term.spread = real[k] ? term.spread : zero;
          term.exponent = real[k] ? term.exponent : zero;
        }
        count += one;
        sum.exponential += term.exponential;
        sum.step += term.step;
        sum.spread += term.spread;
        if constexpr (kLearn)
          sum.exponent = multiply_add(term.exponent, term.exponential, sum.exponent);
      }
      total.add(sum.exponential);
      step.add(sum.step);
      if constexpr (kLearn) {
        slope.add(sum.exponent);
        spread.add(sum.spread);
      }
    }

    MILKERNELS_INLINE void raise_reference(Vector<T> to, const Sharpness<T>& sharpness) {
      const Vector<T> distance = count == T(0) ? Vector<T>{} : reference - to;
      const Terms<T> by = sharpness.template terms<kLearn>(distance);
      reference = to;
      if constexpr (kLearn) {
        slope.add(by.exponent * total.value());
        slope.scale(by.exponential);
        spread.scale(by.exponential);
        spread.add(distance * by.exponential * step.value());
        spread.add(count * by.spread);
      }
      total.scale(by.exponential);
      step.scale(by.exponential);
      step.add(count * by.step);
    }

    MILKERNELS_INLINE Sums rows() const {
      Sums sums{{reference, count, total.value(), step.value(), low, high}};
      if constexpr (kLearn) {
        sums.row[kSlope] = slope.value();
        sums.row[kSpread] = spread.value();
      }
      return sums;
    }
  };

  // The sums relative to another reference.
  static Sums moved(Sums sums, Vector<T> to, const Sharpness<T>& sharpness) {
    const Vector<T> distance = sums.row[kCount] == T(0) ? Vector<T>{} : sums.row[kReference] - to;
    const Terms<T> by = sharpness.template terms<kLearn>(distance);
    const Vector<T> step = by.exponential * sums.row[kStep];
    if constexpr (kLearn) {
      const Vector<T> slope = multiply_add(by.exponent, sums.row[kSum], sums.row[kSlope]);
      const Vector<T> own = multiply_add(by.exponential, sums.row[kSpread], distance * step);
      sums.row[kSlope] = by.exponential * slope;
      sums.row[kSpread] = multiply_add(sums.row[kCount], by.spread, own);
    }
    sums.row[kReference] = to;
    sums.row[kSum] *= by.exponential;
    sums.row[kStep] = multiply_add(sums.row[kCount], by.step, step);
    return sums;
  }

  static Sums merge(const Sums& a, const Sums& b, const Sharpness<T>& sharpness) {
    const Vector<T> zero{};
    const Vector<T> count = a.row[kCount] + b.row[kCount];
    const Vector<T> divisor = count == zero ? broadcast(T(1)) : count;
    const Vector<T> high = maximum(a.row[kHigh], b.row[kHigh]);
    Vector<T> reference = a.row[kReference] * (a.row[kCount] / divisor) +
                          b.row[kReference] * (b.row[kCount] / divisor);
    const auto too_far = sharpness.size * (high - reference) > T(kTooFarAbove);
    reference = too_far ? maximum(a.row[kReference], b.row[kReference]) : reference;
    reference = count == zero ? a.row[kReference] : reference;
    Sums joint = moved(a, reference, sharpness);
    const Sums other = moved(b, reference, sharpness);
    joint.row[kCount] = count;
    joint.row[kLow] = minimum(a.row[kLow], b.row[kLow]);
    joint.row[kHigh] = high;
    joint.row[kSum] += other.row[kSum];
    joint.row[kStep] += other.row[kStep];
    if constexpr (kLearn) {
      joint.row[kSlope] += other.row[kSlope];
      joint.row[kSpread] += other.row[kSpread];
    }
    return joint;
  }

  static void write(const LogMeanExpProblem& problem, int64_t cell, int64_t count, const Sums& sums,
                    const Sharpness<T>& sharpness) {
    const Vector<T> zero{};
    const Vector<T> one = broadcast(T(1));
    const auto nothing = sums.row[kCount] == zero;
    const Vector<T> frames = nothing ? one : sums.row[kCount];
    const Vector<T> total = nothing ? one : sums.row[kSum];
    const Vector<T> mean = total / frames;
    const auto far = (mean < T(0.5)) | (mean > T(2));
    // log(mean) by its own series, with w = (1 - mean) / (1 + mean), q = 1 / mean - 1 and both
    // over R.
    const Vector<T> q = -sums.row[kStep] / total;
    const Vector<T> w = q / multiply_add(sharpness.size, q, broadcast(T(2)));
    const Vector<T> scaled = sharpness.size * w;
    const Vector<T> rest = series<T, Arctangent>(far ? zero : scaled * scaled);
    const Logarithm<T> log = logarithm(far ? frames / total : one);
    const Vector<T> log_ratio = multiply_add(log.whole, broadcast(T(kLn2)), log.rest);
    const Vector<T> of_near = T(2) * multiply_add(w, scaled * scaled * rest, w);
    Vector<T> y = sums.row[kReference] - (far ? log_ratio * sharpness.inverse : of_near);
    y = y < sums.row[kLow] ? sums.row[kLow] : y;
    y = y > sums.row[kHigh] ? sums.row[kHigh] : y;
    y = nothing ? zero : sharpness.sign * y;
    store_bags<E>(problem, cell, y, count);
    const int64_t cells = problem.bags * problem.classes;
    T* statistics = static_cast<T*>(problem.statistics) + cell;
    // Dividing by infinity takes every frame's gradient to 0.
    const Vector<T> infinity = broadcast(T(__builtin_inf()));
    store_lanes(statistics, nothing ? zero : sums.row[kReference], count);
    store_lanes(statistics + cells, nothing ? infinity : total, count);
    if constexpr (kLearn) {
      const Vector<T> of_far =
          (sums.row[kSlope] / total + log_ratio) * sharpness.inverse * sharpness.inverse;
      const Vector<T> spread = sums.row[kSpread] / total - w * (q - T(2) * w * scaled * rest);
      const Vector<T> slope = far ? of_far : spread;
      store_lanes(statistics + 2 * cells, nothing ? zero : slope < zero ? zero : slope, count);
    }
  }
};

template <class E, bool kFromLogits>
struct LogMeanExpGradient {
  using T = Arithmetic<E>;
  static constexpr bool kReadsFrames = true;
  static constexpr bool kLongChains = true;

  struct Constants {
    Sharpness<T> sharpness;
    Vector<T> reference;
    Vector<T> scale;

    template <class Choose>
    MILKERNELS_INLINE Constants each(const Choose& choose) const {
      return {sharpness.each(choose), choose(reference), choose(scale)};
    }
  };

  static MILKERNELS_INLINE Constants constants(const LogMeanExpProblem& problem, int64_t cell,
                                               int64_t count) {
    const int64_t cells = problem.bags * problem.classes;
    const T* statistics = static_cast<const T*>(problem.statistics) + cell;
    const Vector<T> gradient = bag_gradients<E>(problem, cell, count);
    return {load_sharpness<T>(problem, cell % problem.classes, count),
            load_lanes(statistics, count), gradient / load_lanes(statistics + cells, count)};
  }

  static MILKERNELS_INLINE Vector<T> gradient(const Constants& bag, Vector<T> raw) {
    Vector<T> x = raw;
    Vector<T> scale = bag.scale;
    if constexpr (kFromLogits) {
      const Sigmoid<T> at = sigmoid<T>(raw);
      x = at.value;
      scale *= at.value * at.complement;
    }
    const Vector<T> distance = x * bag.sharpness.sign - bag.reference;
    return scale * Sharpness<T>::exponential(bag.sharpness.exponent(distance));
  }

  static void finish(const LogMeanExpProblem&, int64_t, int64_t, int64_t) {}
};

template <class E>
void log_mean_exp_forward(const LogMeanExpProblem& problem) {
  if (problem.learn)
    problem.from_logits ? gather<E, LogMeanExp<E, true, true>>(problem)
                        : gather<E, LogMeanExp<E, false, true>>(problem);
  else
    problem.from_logits ? gather<E, LogMeanExp<E, true, false>>(problem)
                        : gather<E, LogMeanExp<E, false, false>>(problem);
}

// Σ g dy/dr over the bags, in order.
template <class E>
void sum_sharpness_gradients(const LogMeanExpProblem& problem) {
  using T = Arithmetic<E>;
  constexpr int64_t kStep = kLanes<T>;
  const T* slopes = static_cast<const T*>(problem.statistics) + 2 * problem.bags * problem.classes;
  for (int64_t index = 0; index < problem.classes; index += kStep) {
    const int64_t count = problem.classes - index < kStep ? problem.classes - index : kStep;
    LongSum<T> sum;
    for (int64_t cell = index; cell < problem.bags * problem.classes; cell += problem.classes)
      sum.add(bag_gradients<E>(problem, cell, count) * load_lanes(slopes + cell, count));
    store_lanes(static_cast<T*>(problem.sharpness_gradient) + index, sum.value(), count);
  }
}

template <class E>
void log_mean_exp_backward(const LogMeanExpProblem& problem) {
  problem.from_logits ? scatter<E, LogMeanExpGradient<E, true>>(problem)
                      : scatter<E, LogMeanExpGradient<E, false>>(problem);
  if (problem.sharpness_gradient != nullptr) sum_sharpness_gradients<E>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
