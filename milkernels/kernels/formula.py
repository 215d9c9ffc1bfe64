"""What a frame weighs, and the derivative beside it: the Triton twin of csrc/formula.h.

Every function works on tiles in the arithmetic dtype, float32 or float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl

from milkernels import family

_LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
_WEIGHT_FLOOR = tl.constexpr(family.WEIGHT_FLOOR)
_SCORE_CLAMP = tl.constexpr(family.SCORE_CLAMP)
#: ln 2 in two parts, of which a whole number multiplies the first without rounding.
_LN_2_HIGH = tl.constexpr(0.693359375)
_LN_2_LOW = tl.constexpr(-2.1219444005469058e-4)
#: exp of numbers below this is 0 in any type.
_LOWEST_EXPONENT = tl.constexpr(-1.0e4)

#: How a coefficient of the log-weight comes: absent, the constant 1, or one per class.
NONE = tl.constexpr(0)
ONE = tl.constexpr(1)
LEARNED = tl.constexpr(2)
_COEFFICIENTS = {"none": 0, "one": 1, "learned": 2}

_SIGMOID = tl.constexpr(1)
_TANH = tl.constexpr(2)
_CLAMP = tl.constexpr(3)
_ACTIVATIONS = {None: 0, "sigmoid": 1, "tanh": 2, "clamp": 3}


@dataclass(frozen=True)
class Formula:
    """What a kernel is compiled for, as one compile-time constant."""

    alpha: int
    power: int
    scores: bool
    activation: int
    direct: bool
    from_logits: bool
    masked: bool
    variance: bool
    covariance: bool
    #: The scores are the weights themselves.
    given: bool = False

    @staticmethod
    def of(average: family.Average, masked: bool) -> Formula:
        coefficients = family.WEIGHTED_AVERAGES[average.member]
        return Formula(
            alpha=_COEFFICIENTS[coefficients.alpha],
            power=_COEFFICIENTS[coefficients.power],
            scores=coefficients.scores,
            activation=_ACTIVATIONS[average.score_activation],
            direct=coefficients.weighs_directly(average.from_logits),
            from_logits=average.from_logits,
            masked=masked,
            variance=average.learn and coefficients.alpha == "learned",
            covariance=average.learn and coefficients.power == "learned",
        )

    @staticmethod
    def of_given_weights(from_logits: bool) -> Formula:
        """Of an average whose weights come in place of scores."""
        average = family.Average("attention", None, from_logits, learn=False)
        return replace(Formula.of(average, masked=False), direct=True, given=True)

    @property
    def learns(self) -> bool:
        """Whether a parameter's gradient is wanted."""
        return self.variance or self.covariance

    @property
    def reads_values(self) -> bool:
        """Whether the gradient depends on the frame values: not for the mean of plain ones."""
        return self.from_logits or self.scores or self.alpha != 0 or self.power != 0


@triton.jit
def split_exponential(x):
    """exp(x) of a finite x as a fraction near 1 and the power of two that it is to be multiplied
    with: x · log2 e alone would be rounded by |x| units."""
    zero = tl.zeros_like(x)
    whole = tl.floor(x * _LOG2_E + 0.5)
    rest = tl.fma(whole, zero - _LN_2_HIGH, x)
    rest = tl.fma(whole, zero - _LN_2_LOW, rest)
    return tl.exp2(rest * _LOG2_E), whole


@triton.jit
def exponential(x):
    """exp(x) of x up to 0."""
    fraction, whole = split_exponential(tl.where(x < _LOWEST_EXPONENT, _LOWEST_EXPONENT, x))
    return fraction * tl.exp2(whole)


@triton.jit
def sigmoid(raw, decay):
    """σ(raw) and 1 - σ(raw), from exp(-|raw|)."""
    near, far = 1 / (1 + decay), decay / (1 + decay)
    positive = raw >= 0
    return tl.where(positive, near, far), tl.where(positive, far, near)


@triton.jit
def probability(raw, FROM_LOGITS: tl.constexpr):
    """Frame values x, and 1 - x (exact for logits far from 0)."""
    if FROM_LOGITS:
        return sigmoid(raw, exponential(-tl.abs(raw)))
    else:
        return raw, 1 - raw


@triton.jit
def log2_x(raw, FORMULA: tl.constexpr):
    """log2 x where the formula needs it: log2 σ(raw) from logits, else of the floored value."""
    if FORMULA.power == NONE or (FORMULA.direct and not FORMULA.covariance):
        return raw
    elif FORMULA.from_logits:
        decay = exponential(-tl.abs(raw))
        return tl.where(raw < 0, raw, 0.0) * _LOG2_E - tl.log2(1 + decay)
    else:
        return tl.log2(tl.where(raw < _WEIGHT_FLOOR, _WEIGHT_FLOOR, raw))


@triton.jit
def activate(score, ACTIVATION: tl.constexpr):
    if ACTIVATION == _SIGMOID:
        return probability(score, True)[0]
    elif ACTIVATION == _TANH:
        return 2 * probability(2 * score, True)[0] - 1
    elif ACTIVATION == _CLAMP:
        low = tl.where(score < -_SCORE_CLAMP, -_SCORE_CLAMP, score)
        return tl.where(low > _SCORE_CLAMP, _SCORE_CLAMP, low)
    else:
        return score


@triton.jit
def activation_derivative(score, ACTIVATION: tl.constexpr):
    if ACTIVATION == _SIGMOID:
        near, far = probability(score, True)
        return near * far
    elif ACTIVATION == _TANH:
        near, far = probability(2 * score, True)
        return 4 * near * far
    elif ACTIVATION == _CLAMP:
        return tl.where(tl.abs(score) <= _SCORE_CLAMP, 1.0, 0.0)
    else:
        return tl.full(score.shape, 1.0, score.dtype)


@triton.jit
def log2_weight(start, x, log2_x, score, alpha, power, FORMULA: tl.constexpr):
    """start + log2 of the weight exp(alpha·x + power·log x + a(score)). Starting at minus the peak
    keeps the sum small from its first term on, and so exact."""
    result = start + tl.zeros_like(x)
    if FORMULA.power != NONE:
        result = tl.fma(power + tl.zeros_like(x), log2_x, result)
    if FORMULA.alpha != NONE:
        result = tl.fma(alpha * _LOG2_E + tl.zeros_like(x), x, result)
    if FORMULA.scores:
        scale = tl.full(x.shape, _LOG2_E, x.dtype)
        result = tl.fma(scale, activate(score, FORMULA.activation), result)
    return result


@triton.jit
def direct_weight(x, score, FORMULA: tl.constexpr):
    """The weight itself where it needs no exponential: mean, linear softmax, a given one."""
    if FORMULA.given:
        return score
    elif FORMULA.power == NONE:
        return tl.full(x.shape, 1.0, x.dtype)
    else:
        return tl.where(x < _WEIGHT_FLOOR, _WEIGHT_FLOOR, x)


@triton.jit
def frame_gradient(raw, x, complement, residual, alpha, power, FORMULA: tl.constexpr):
    """(d y / d raw) / p with residual = x - y; from logits it has no pole."""
    gradient = tl.full(x.shape, 1.0, x.dtype)
    if FORMULA.alpha != NONE:
        gradient += alpha * residual
    if FORMULA.from_logits:
        gradient *= x * complement
        if FORMULA.power != NONE:
            gradient += power * residual * complement
    elif FORMULA.power != NONE:
        floored = raw < _WEIGHT_FLOOR
        gradient += tl.where(floored, 0.0, power * residual / tl.where(floored, 1.0, raw))
    return gradient
