// What a frame weighs, and its derivative beside it: the C++ twin of kernels/formula.py.
#pragma once

#include "elementary.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

constexpr double kWeightFloor = 1e-7;
constexpr double kScoreClamp = 10.0;

// How far above the largest weight seen a peak is set, in powers of two: what follows then hardly
// ever raises it again.
template <class T>
constexpr int kHeadroom = sizeof(T) == 4 ? 16 : 0;

template <class T>
struct Sigmoid {
  Vector<T> value;
  Vector<T> complement;
  // exp(-|raw|) and 1 / (1 + exp(-|raw|)): the larger of the two above.
  Vector<T> decay;
  Vector<T> larger;
};

template <class T>
MILKERNELS_INLINE Vector<T> decay_of(Vector<T> raw) {
  return exp(minus_magnitude<T>(raw));
}

// `decay` is decay_of(raw).
template <class T>
MILKERNELS_INLINE Sigmoid<T> sigmoid(Vector<T> raw, Vector<T> decay) {
  const Vector<T> zero{};
  const Vector<T> larger = reciprocal(T(1) + decay);
  const Vector<T> smaller = decay * larger;
  const auto positive = raw >= zero;
  return {positive ? larger : smaller, positive ? smaller : larger, decay, larger};
}

template <class T>
MILKERNELS_INLINE Sigmoid<T> sigmoid(Vector<T> raw) {
  return sigmoid<T>(raw, decay_of<T>(raw));
}

// log(1 + decay), with what the sum loses put back.
template <class T>
MILKERNELS_INLINE Vector<T> log_of_one_plus(const Sigmoid<T>& at) {
  const Vector<T> sum = T(1) + at.decay;
  const Vector<T> lost = at.decay - (sum - T(1));
  const Logarithm<T> log = logarithm(sum);
  return multiply_add(log.whole, broadcast(T(kLn2)), multiply_add(lost, at.larger, log.rest));
}

template <class T>
MILKERNELS_INLINE Vector<T> activate(Vector<T> score, Activation activation) {
  const Vector<T> bound = broadcast(T(kScoreClamp));
  switch (activation) {
    case Activation::kSigmoid:
      return sigmoid<T>(score).value;
    case Activation::kTanh:
      return T(2) * sigmoid<T>(T(2) * score).value - T(1);
    case Activation::kClamp:
      score = score < -bound ? -bound : score;
      return score > bound ? bound : score;
    default:
      return score;
  }
}

template <class T>
MILKERNELS_INLINE Vector<T> activation_derivative(Vector<T> score, Activation activation) {
  const Vector<T> one = broadcast(T(1));
  const Vector<T> bound = broadcast(T(kScoreClamp));
  switch (activation) {
    case Activation::kSigmoid: {
      const Sigmoid<T> at = sigmoid<T>(score);
      return at.value * at.complement;
    }
    case Activation::kTanh: {
      const Sigmoid<T> at = sigmoid<T>(T(2) * score);
      return T(4) * at.value * at.complement;
    }
    case Activation::kClamp:
      return (score >= -bound) & (score <= bound) ? one : Vector<T>{};
    default:
      return one;
  }
}

// alpha and power of each lane, and in units of base 2; what scores go through.
template <class T>
struct FormulaCoefficients {
  Vector<T> alpha;
  Vector<T> power;
  Activation activation;
  Vector<T> alpha2 = alpha * T(kLog2E);
  Vector<T> power2 = power * T(kLog2E);

  template <class Choose>
  MILKERNELS_INLINE FormulaCoefficients each(const Choose& choose) const {
    return {choose(alpha), choose(power), activation};
  }
};

// A frame's value x, log x in two parts, the score after its activation, and the factor that its
// weight has beside the exponential. Nothing has a default: an array of frames would be filled with
// them in memory, for nothing.
template <class T>
struct Frame {
  Vector<T> x;
  Vector<T> complement;
  Vector<T> log_whole;
  Vector<T> log_rest;
  Vector<T> score;
  Vector<T> factor;
};

// kActivated: scores go through an activation, chosen when the kernel runs.
template <Member kMember, bool kFromLogits, bool kActivated = false>
struct Formula {
  static constexpr bool kAlpha =
      kMember == Member::kExponential || kMember == Member::kPowerExponential;
  static constexpr bool kPower = kMember == Member::kPower || kMember == Member::kPowerExponential;
  static constexpr bool kLinear = kMember == Member::kLinear;
  static constexpr bool kScores = kMember == Member::kAttention;
  // The weight is the factor alone.
  static constexpr bool kDirect = kMember == Member::kMean || (kLinear && !kFromLogits);
  // Every frame weighs 1.
  static constexpr bool kCounts = kMember == Member::kMean;
  static constexpr bool kReadsValues = kMember != Member::kMean || kFromLogits;

  static constexpr bool kDecays = kFromLogits;
  // What else is computed for a frame is so much that its decay's way to memory and back is short.
  static constexpr bool kKeeps = kDecays && (kAlpha || kPower || kScores);

  // Of logits, what the sigmoid begins with; nothing else needs it.
  template <class T>
  static MILKERNELS_INLINE Vector<T> decay(Vector<T> raw) {
    return kDecays ? decay_of<T>(raw) : raw;
  }

  template <class T>
  static MILKERNELS_INLINE Frame<T> read(Vector<T> raw, Vector<T> decay, Vector<T> score,
                                         Activation activation) {
    const Vector<T> zero{};
    Frame<T> frame{raw, zero, zero, zero, zero, broadcast(T(1))};
    if constexpr (kFromLogits) {
      const Sigmoid<T> at = sigmoid<T>(raw, decay);
      frame.x = at.value;
      frame.complement = at.complement;
      // log σ(raw) = min(raw, 0) - log(1 + exp(-|raw|)).
      if constexpr (kPower || kLinear) frame.log_whole = raw < zero ? raw : zero;
      if constexpr (kPower) frame.log_rest = -log_of_one_plus<T>(at);
      if constexpr (kLinear) frame.factor = at.larger;
    } else if constexpr (kPower || kLinear) {
      const Vector<T> floor = broadcast(T(kWeightFloor));
      const Vector<T> floored = raw < floor ? floor : raw;
      if constexpr (kLinear) frame.factor = floored;
      if constexpr (kPower) {
        const Logarithm<T> log = logarithm(floored);
        frame.log_whole = log.whole;
        frame.log_rest = log.rest;
      }
    }
    if constexpr (kScores) frame.score = kActivated ? activate<T>(score, activation) : score;
    return frame;
  }

  // start + log2 of the weight without its factor.
  template <class T>
  static MILKERNELS_INLINE Vector<T> log2_weight(const Frame<T>& frame,
                                                 const FormulaCoefficients<T>& coefficients,
                                                 Vector<T> start) {
    if constexpr (kPower) {
      const Vector<T> of_whole = kFromLogits ? coefficients.power2 : coefficients.power;
      start = multiply_add(of_whole, frame.log_whole, start);
    }
    return add_fine_terms(frame, coefficients, start);
  }

  // The weight over 2^peak. Starting below the peak by its headroom keeps the exponent small from
  // its first term on, and so exact; the power of x's own exponent, which may be large, is split
  // before.
  template <class T>
  static MILKERNELS_INLINE Vector<T> weight(const Frame<T>& frame,
                                            const FormulaCoefficients<T>& coefficients,
                                            Vector<T> minus_peak) {
    if constexpr (kDirect) {
      return frame.factor;
    } else if constexpr (kPower && !kFromLogits) {
      const Vector<T> coarse = multiply_add(coefficients.power, frame.log_whole, minus_peak);
      const Vector<T> whole = nearest(coarse);
      const Vector<T> fine = multiply_add(coefficients.power, frame.log_whole, minus_peak - whole);
      return exp2(add_fine_terms(frame, coefficients, fine), whole);
    } else {
      const Vector<T> headroom = broadcast(T(kHeadroom<T>));
      return frame.factor *
             exp2(log2_weight(frame, coefficients, minus_peak + headroom), -headroom);
    }
  }

  // The same where peaks are large.
  template <class T>
  [[gnu::noinline, gnu::cold]] static Vector<T> weight_below_large(
      Frame<T> frame, FormulaCoefficients<T> coefficients, Vector<T> peak) {
    const Vector<T> log2 = log2_weight<T>(frame, coefficients, Vector<T>{});
    const Vector<T> large = frame.factor * exp2_below_large<T>(log2, peak);
    return are_large<T>(peak) ? large : weight<T>(frame, coefficients, -peak);
  }

  template <class T>
  static MILKERNELS_INLINE Vector<T> add_fine_terms(const Frame<T>& frame,
                                                    const FormulaCoefficients<T>& coefficients,
                                                    Vector<T> sum) {
    if constexpr (kPower) sum = multiply_add(coefficients.power2, frame.log_rest, sum);
    if constexpr (kLinear && kFromLogits)
      sum = multiply_add(broadcast(T(kLog2E)), frame.log_whole, sum);
    if constexpr (kAlpha) sum = multiply_add(coefficients.alpha2, frame.x, sum);
    if constexpr (kScores) sum = multiply_add(broadcast(T(kLog2E)), frame.score, sum);
    return sum;
  }

  // d log-weight / d score.
  template <class T>
  static MILKERNELS_INLINE Vector<T> score_slope(Vector<T> score, Activation activation) {
    return kActivated ? activation_derivative<T>(score, activation) : broadcast(T(1));
  }

  // log x, of a member with a power.
  template <class T>
  static MILKERNELS_INLINE Vector<T> log_x(const Frame<T>& frame) {
    return (kFromLogits ? frame.log_whole : frame.log_whole * T(kLn2)) + frame.log_rest;
  }

  // (d y / d raw) / p with residual = x - y; from logits it has no pole.
  template <class T>
  static MILKERNELS_INLINE Vector<T> frame_gradient(Vector<T> raw, const Frame<T>& frame,
                                                    Vector<T> residual,
                                                    const FormulaCoefficients<T>& coefficients) {
    Vector<T> gradient = broadcast(T(1));
    if constexpr (kAlpha) gradient = multiply_add(coefficients.alpha, residual, gradient);
    if constexpr (kFromLogits) {
      gradient *= frame.x * frame.complement;
      if constexpr (kPower) gradient += coefficients.power * residual * frame.complement;
      if constexpr (kLinear) gradient += residual * frame.complement;
    } else if constexpr (kPower || kLinear) {
      const Vector<T> floor = broadcast(T(kWeightFloor));
      const auto floored = raw < floor;
      const Vector<T> quotient = residual / (floored ? floor : raw);
      const Vector<T> slope = kPower ? coefficients.power * quotient : quotient;
      gradient += floored ? Vector<T>{} : slope;
    }
    return gradient;
  }
};

// Calls run(formula) with the member's formula: its branches are taken here, and not at each frame.
template <bool kFromLogits, class Run>
void with_formula(Member member, Activation activation, const Run& run) {
  switch (member) {
    case Member::kMean:
      return run(Formula<Member::kMean, kFromLogits>());
    case Member::kLinear:
      return run(Formula<Member::kLinear, kFromLogits>());
    case Member::kExponential:
      return run(Formula<Member::kExponential, kFromLogits>());
    case Member::kPower:
      return run(Formula<Member::kPower, kFromLogits>());
    case Member::kPowerExponential:
      return run(Formula<Member::kPowerExponential, kFromLogits>());
    case Member::kAttention:
      return activation == Activation::kNone
                 ? run(Formula<Member::kAttention, kFromLogits>())
                 : run(Formula<Member::kAttention, kFromLogits, true>());
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
