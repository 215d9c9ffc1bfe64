// What a frame weighs, and its derivative beside it: the C++ twin of kernels/formula.py.
#pragma once

#include "simd.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

constexpr double kWeightFloor = 1e-7;
constexpr double kScoreClamp = 10.0;

template <class T>
struct Sigmoid {
  Vector<T> value;
  Vector<T> complement;
  Vector<T> log_value;
  // log_value = min(raw, 0) - log(1 + exp(-|raw|)): 1 / (1 + exp(-|raw|)), for weights of σ itself.
  Vector<T> larger;
};

template <class T, bool kLog>
inline Sigmoid<T> sigmoid(Vector<T> raw) {
  const Vector<T> zero{};
  const Vector<T> decay = exponential(raw < zero ? raw : -raw);
  const Vector<T> larger = T(1) / (T(1) + decay);
  const Vector<T> smaller = decay * larger;
  const auto positive = raw >= zero;
  Sigmoid<T> result{positive ? larger : smaller, positive ? smaller : larger, zero, larger};
  if constexpr (kLog) result.log_value = (raw < zero ? raw : zero) - logarithm(T(1) + decay);
  return result;
}

template <class T>
inline Vector<T> activate(Vector<T> score, Activation activation) {
  const Vector<T> bound = broadcast(T(kScoreClamp));
  switch (activation) {
    case Activation::kSigmoid:
      return sigmoid<T, false>(score).value;
    case Activation::kTanh:
      return T(2) * sigmoid<T, false>(T(2) * score).value - T(1);
    case Activation::kClamp:
      score = score < -bound ? -bound : score;
      return score > bound ? bound : score;
    default:
      return score;
  }
}

template <class T>
inline Vector<T> activation_derivative(Vector<T> score, Activation activation) {
  const Vector<T> bound = broadcast(T(kScoreClamp));
  const Vector<T> one = broadcast(T(1));
  switch (activation) {
    case Activation::kSigmoid: {
      const Sigmoid<T> at = sigmoid<T, false>(score);
      return at.value * at.complement;
    }
    case Activation::kTanh: {
      const Sigmoid<T> at = sigmoid<T, false>(T(2) * score);
      return T(4) * at.value * at.complement;
    }
    case Activation::kClamp:
      return (score >= -bound) & (score <= bound) ? one : Vector<T>{};
    default:
      return one;
  }
}

// A frame's value x and what it weighs: factor · exp(log_weight).
template <class T>
struct Weighed {
  Vector<T> x;
  Vector<T> complement;
  Vector<T> log_x;
  Vector<T> log_weight;
  Vector<T> factor;
};

template <Member kMember, bool kFromLogits>
struct Formula {
  static constexpr bool kAlpha =
      kMember == Member::kExponential || kMember == Member::kPowerExponential;
  static constexpr bool kPower = kMember == Member::kPower || kMember == Member::kPowerExponential;
  static constexpr bool kLinear = kMember == Member::kLinear;
  static constexpr bool kScores = kMember == Member::kAttention;
  // The weight is the factor alone.
  static constexpr bool kDirect = kMember == Member::kMean || (kLinear && !kFromLogits);
  static constexpr bool kReadsValues = kMember != Member::kMean || kFromLogits;

  template <class T>
  static Weighed<T> weigh(Vector<T> raw, Vector<T> score, Vector<T> alpha, Vector<T> power,
                          Activation activation) {
    const Vector<T> zero{};
    const Vector<T> one = broadcast(T(1));
    Weighed<T> frame{raw, zero, zero, zero, one};
    if constexpr (kFromLogits) {
      const Sigmoid<T> at = sigmoid<T, kPower>(raw);
      frame.x = at.value;
      frame.complement = at.complement;
      frame.log_x = at.log_value;
      if constexpr (kLinear) {
        frame.log_weight = raw < zero ? raw : zero;
        frame.factor = at.larger;
      }
    } else if constexpr (kPower || kLinear) {
      const Vector<T> floor = broadcast(T(kWeightFloor));
      const Vector<T> floored = raw < floor ? floor : raw;
      if constexpr (kPower) frame.log_x = logarithm(floored);
      if constexpr (kLinear) frame.factor = floored;
    }
    if constexpr (kAlpha) frame.log_weight += alpha * frame.x;
    if constexpr (kPower) frame.log_weight += power * frame.log_x;
    if constexpr (kScores) frame.log_weight += activate<T>(score, activation);
    return frame;
  }

  // (d y / d raw) / p with residual = x - y; from logits it has no pole.
  template <class T>
  static Vector<T> frame_gradient(Vector<T> raw, const Weighed<T>& frame, Vector<T> residual,
                                  Vector<T> alpha, Vector<T> power) {
    Vector<T> gradient = broadcast(T(1));
    if constexpr (kAlpha) gradient += alpha * residual;
    if constexpr (kFromLogits) {
      gradient *= frame.x * frame.complement;
      if constexpr (kPower) gradient += power * residual * frame.complement;
      if constexpr (kLinear) gradient += residual * frame.complement;
    } else if constexpr (kPower || kLinear) {
      const Vector<T> floor = broadcast(T(kWeightFloor));
      const auto floored = raw < floor;
      const Vector<T> quotient = residual / (floored ? floor : raw);
      const Vector<T> slope = kPower ? power * quotient : quotient;
      gradient += floored ? Vector<T>{} : slope;
    }
    return gradient;
  }
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
