// Binary cross-entropy of bag values and its gradient, cell by cell:
// w (-t log y - (1 - t) log(1 - y)).
#pragma once

#include <limits>

#include "cross_entropy_problem.h"
#include "formula.h"
#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// As in PyTorch: floors of a logarithm and of y (1 - y) in the gradient's denominator. From logits
// the frames' slopes vanish as y does: a floor is only there to keep quotients finite.
constexpr double kLogFloor = -100;
constexpr double kVarianceFloor = 1e-12;
constexpr double kVarianceFloorOfLogits = 1e-30;

// log x, floored: of 0 and below, too.
template <class T>
inline Vector<T> floored_log(Vector<T> x) {
  const Vector<T> zero{};
  const Vector<T> floor = broadcast(T(kLogFloor));
  // Subnormal numbers are scaled into the range that the logarithm takes.
  constexpr T kSmall = std::numeric_limits<T>::min();
  constexpr T kScale = T(18446744073709551616.0);
  const auto small = x < kSmall;
  const auto positive = (x > zero) | (x != x);
  const Vector<T> scaled = positive ? (small ? x * kScale : x) : broadcast(T(1));
  const Logarithm<T> log = logarithm(scaled);
  const Vector<T> shift = small ? broadcast(T(64 * kLn2)) : zero;
  const Vector<T> value = multiply_add(log.whole, broadcast(T(kLn2)), log.rest) - shift;
  return positive ? (value < floor ? floor : value) : floor;
}

// log(1 - x) to a relative rounding, for x up to 1/2.
template <class T>
inline Vector<T> log_of_complement(Vector<T> x) {
  const Vector<T> one = broadcast(T(1));
  const Vector<T> rounded = one - x;
  const auto nothing = rounded == one;
  const Logarithm<T> log = logarithm(nothing ? one : rounded);
  const Vector<T> value = multiply_add(log.whole, broadcast(T(kLn2)), log.rest);
  return nothing ? -x : value * (x / (one - rounded));
}

template <class E>
void cross_entropy_of(const CrossEntropyProblem& problem, int64_t cell, int64_t place,
                      int64_t count) {
  using T = Arithmetic<E>;
  const Vector<T> zero{};
  const Vector<T> one = broadcast(T(1));
  const auto load_from = [count](const void* values, int64_t from, Vector<T> otherwise) {
    return values == nullptr ? otherwise : load_lanes(static_cast<const T*>(values) + from, count);
  };
  const Integer<T> known =
      problem.known == nullptr ? Integer<T>{} - 1 : load_flags<T>(problem.known + place, count);
  Vector<T> y = load_from(problem.y, cell, zero);
  const Vector<T> below_zero = y < zero ? y : -y;
  Vector<T> complement = one - y;
  if (problem.slope == Slope::kLogit) {
    const Sigmoid<T> at = sigmoid<T>(y);
    y = at.value;
    complement = at.complement;
  }
  y = y < zero ? zero : y > one ? one : y;
  complement = load_from(problem.complement, cell, complement);
  const auto survives = complement >= zero;
  complement = complement < zero ? zero : complement;
  const Vector<T> target = load_from(problem.target, place, zero);
  const Vector<T> weight = load_from(problem.weight, place, one);
  const auto lower = y < complement;
  const Vector<T> smaller = lower ? y : complement;
  const Vector<T> log_larger = log_of_complement<T>(smaller);
  Vector<T> log_smaller = floored_log<T>(smaller);
  if (problem.slope == Slope::kLogit) {
    // The sigmoid is 0 where its logarithm is not yet at the floor.
    const Vector<T> floor = broadcast(T(kLogFloor));
    log_smaller = below_zero + log_larger;
    log_smaller = log_smaller < floor ? floor : log_smaller;
  }
  const Vector<T> log_y = lower ? log_smaller : log_larger;
  const Vector<T> log_complement = lower ? log_larger : log_smaller;
  const Vector<T> loss = -(target * log_y + (one - target) * log_complement) * weight;
  store_lanes(static_cast<T*>(problem.loss) + place, known ? loss : zero, count);
  if (problem.gradient == nullptr) return;
  Vector<T> rest = complement;
  if (problem.from_logits && problem.slope == Slope::kValue) {
    // Less than half a rounding of 1 is lost in y but not in the sigmoid's slope: 0 / 0 by halves.
    const Vector<T> half_rounding = broadcast(std::numeric_limits<T>::epsilon() / 4);
    rest = rest < half_rounding ? half_rounding : rest;
  }
  Vector<T> divisor = y * rest;
  if (problem.slope == Slope::kSurvival) divisor = survives ? y : divisor;
  const Vector<T> floor =
      broadcast(T(problem.from_logits ? kVarianceFloorOfLogits : kVarianceFloor));
  divisor = divisor < floor ? floor : divisor;
  if (problem.slope == Slope::kLogit) divisor = one;
  const Vector<T> difference = y * (one - target) - target * rest;
  const Vector<T> gradient = difference / divisor * (weight * T(problem.scale));
  store_lanes(static_cast<T*>(problem.gradient) + cell, known ? gradient : zero, count);
}

template <class E>
void cross_entropy(const CrossEntropyProblem& problem) {
  constexpr int64_t kStep = kLanes<Arithmetic<E>>;
  for (int64_t bag = 0; bag < problem.bags; ++bag) {
    for (int64_t index = 0; index < problem.classes; index += kStep) {
      const int64_t rest = problem.classes - index;
      cross_entropy_of<E>(problem, bag * problem.classes + index, bag * problem.stride_bag + index,
                          rest < kStep ? rest : kStep);
    }
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
