"""What a frame weighs, and the derivative beside it: the Triton twin of csrc/formula.h.

Every function works on tiles in the arithmetic dtype, float32 or float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl
from triton.language.extra import libdevice

from milkernels import family

#: Triton's interpreter has no device libraries.
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

_LOG2_E = tl.constexpr(1.4426950408889634)
#: What float32 leaves of it.
_LOG2_E_LOW = tl.constexpr(1.925963033500011e-08)
LN_2 = tl.constexpr(0.6931471805599453)
_WEIGHT_FLOOR = tl.constexpr(family.WEIGHT_FLOOR)
_SCORE_CLAMP = tl.constexpr(family.SCORE_CLAMP)
#: ln 2 in two parts, of which a whole number multiplies the first without rounding.
_LN_2_HIGH = tl.constexpr(0.693359375)
_LN_2_LOW = tl.constexpr(-2.1219444005469058e-4)
#: log2(1 + x) / x from 0 to 1, and from the root of 1/2 to that of 2 less 1, the constant term
#: first: the smallest largest relative errors.
_LOG2_TO_TWO = tl.constexpr(
    (
        *(1.4426950216293335, -0.7213401794433594, 0.48069295287132263, -0.35840848088264465),
        *(0.27564141154289246, -0.19711896777153015, 0.1128561943769455, -0.04256706312298775),
        0.007549182046204805,
    )
)
_LOG2_ABOUT_ONE = tl.constexpr(
    (
        *(1.4426950216293335, -0.7213473320007324, 0.48091062903404236, -0.3607036769390106),
        *(0.28791624307632446, -0.23894481360912323, 0.21571560204029083, -0.20726975798606873),
        0.1258370578289032,
    )
)
#: The bits of the root of 1/2.
_ROOT_OF_HALF = tl.constexpr(0x3F3504F3)
#: exp of minus this is 0 in any type.
_LARGEST_EXPONENT = tl.constexpr(1.0e4)
#: Logits further down weigh as this one does: of all of them the sigmoid is 0.
_LEAST_LOGIT = tl.constexpr(-65536.0)

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
    def leads(self) -> bool:
        """Whether the heaviest frame may be neither the smallest nor the largest."""
        return not self.direct and (self.scores or (self.alpha != 0 and self.power != 0))

    @property
    def peaks_at_zero(self) -> bool:
        """Whether log-weights are known to lie between 0 and 2: those of exp(x) of a sigmoid."""
        alone = self.power == 0 and not self.scores
        return self.from_logits and self.alpha == _COEFFICIENTS["one"] and alone

    @property
    def unbounded(self) -> bool:
        """Whether log-weights may be as large as their type's numbers."""
        return self.scores or (self.alpha != 0 and not self.from_logits)

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
    return decay(-x)


@triton.jit
def decay(x):
    """exp(-x) of x from 0 on."""
    x = tl.where(x > _LARGEST_EXPONENT, _LARGEST_EXPONENT, x)
    if x.dtype == tl.float64:
        fraction, whole = split_exponential(-x)
        return fraction * tl.exp2(whole)
    else:
        # What x · log2 e gains in rounding is put back to the first order.
        zero = tl.zeros_like(x)
        exponent = x * -_LOG2_E
        gained = tl.fma(x, zero + _LOG2_E, exponent)
        gained = tl.fma(x, zero + _LOG2_E_LOW, gained)
        power = tl.exp2(exponent)
        return tl.fma(power * -LN_2, gained, power)


@triton.jit
def quotient(x, y):
    """x / y of y well inside its type's range, in float32 within two units of its last digit: a
    quarter of the instructions of a division that copes with any y."""
    if _INTERPRETED or y.dtype == tl.float64:
        return x / y
    else:
        return libdevice.fast_dividef(x, y)


@triton.jit
def polynomial(x, TERMS: tl.constexpr, COUNT: tl.constexpr):
    """A polynomial of the first COUNT terms, the constant one first."""
    value = tl.full(x.shape, TERMS[COUNT - 1], x.dtype)
    for done in tl.static_range(1, COUNT):
        value = tl.fma(value, x, tl.full(x.shape, TERMS[COUNT - 1 - done], x.dtype))
    return value


@triton.jit
def log2_of_one_plus(x):
    """log2(1 + x) of x from 0 to 1; in float32 a polynomial within 2e-7 of it, relatively."""
    if x.dtype == tl.float64:
        return tl.log2(1 + x)
    else:
        return polynomial(x, _LOG2_TO_TWO, 9) * x


@triton.jit
def log2(x):
    """log2 of a positive x that is no smaller than the smallest normal number; of NaN a number."""
    if x.dtype == tl.float64:
        return tl.log2(x)
    else:
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - _ROOT_OF_HALF) >> 23
        beyond = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1
        return tl.fma(polynomial(beyond, _LOG2_ABOUT_ONE, 9), beyond, exponent.to(tl.float32))


@triton.jit
def sigmoid(raw, smaller):
    """σ(raw) and 1 - σ(raw), from exp(-|raw|)."""
    near = quotient(1 + tl.zeros_like(smaller), 1 + smaller)
    far = smaller * near
    positive = raw >= 0
    return tl.where(positive, near, far), tl.where(positive, far, near)


@triton.jit
def probability(raw, FROM_LOGITS: tl.constexpr):
    """Frame values x, and 1 - x (exact for logits far from 0)."""
    if FROM_LOGITS:
        return sigmoid(raw, decay(tl.abs(raw)))
    else:
        return raw, 1 - raw


@triton.jit
def powers_of_two(exponent):
    """2^exponent as two factors: a GPU's exp2 gives 0 of what is smaller than a normal number."""
    half = tl.ceil(exponent * 0.5)
    return tl.exp2(half), tl.exp2(exponent - half)


@triton.jit
def faint_probability(raw, FROM_LOGITS: tl.constexpr):
    """As `probability`, with the numbers below the smallest normal one, which have a logarithm."""
    if FROM_LOGITS:
        away = tl.abs(raw)
        away = tl.where(away > _LARGEST_EXPONENT, _LARGEST_EXPONENT, away)
        fraction, whole = split_exponential(-away)
        larger, smaller = powers_of_two(whole)
        return sigmoid(raw, fraction * larger * smaller)
    else:
        return raw, 1 - raw


@triton.jit
def log2_x(raw, FORMULA: tl.constexpr):
    """log2 x where the formula needs it: log2 σ(raw) from logits, else of the floored value."""
    if FORMULA.power == NONE or (FORMULA.direct and not FORMULA.covariance):
        return raw
    elif FORMULA.from_logits:
        logarithm = log2_of_one_plus(decay(tl.abs(raw)))
        if FORMULA.power == LEARNED:
            raw = tl.where(raw < _LEAST_LOGIT, _LEAST_LOGIT, raw)
        return tl.where(raw < 0, raw, 0.0) * _LOG2_E - logarithm
    else:
        return log2(tl.where(raw < _WEIGHT_FLOOR, _WEIGHT_FLOOR, raw))


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
def largest_peak(number):
    """Whole peaks in base 2 up to this stand for products within a sixteenth of them. What a larger
    one rounds off is many powers of two."""
    if number.dtype == tl.float64:
        return 562949953421312.0
    else:
        return 1048576.0


@triton.jit
def finite_peak(top):
    """A peak of what may overflow."""
    largest = 1.7976931348623157e308 if top.dtype == tl.float64 else 3.4028234663852886e38
    return tl.ceil(tl.where(top > largest, largest, top))


@triton.jit
def exp2_below(peak, exact, rounded):
    """2^exact; below a large peak, which is a rounded number itself, 2^(rounded - peak)."""
    distance = rounded - peak
    distance = tl.where(distance > 0, 0.0, distance)
    return tl.exp2(tl.where(tl.abs(peak) > largest_peak(peak), distance, exact))


@triton.jit
def weight_below(peak, x, log2_x, score, alpha, power, FORMULA: tl.constexpr):
    """The weight over 2^peak."""
    exact = log2_weight(-peak, x, log2_x, score, alpha, power, FORMULA)
    if FORMULA.unbounded:
        rounded = log2_weight(0.0, x, log2_x, score, alpha, power, FORMULA)
        return exp2_below(peak, exact, rounded)
    else:
        return tl.exp2(exact)


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
        slope = quotient(power * residual, tl.where(floored, 1.0, raw))
        gradient += tl.where(floored, 0.0, slope)
    return gradient
