"""The sums of log-mean-exp, part by part.

A negative sharpness is a positive one of the negated frames. With R = |r| and u a frame's distance
from a reference, t = R u, the state of a part of a bag is (reference, count, total, step, low,
high, slope, spread), one value per class: how many frames there are, Σ exp(t), Σ (exp(t) - 1) / R,
the smallest and the largest frame, Σ t exp(t) and Σ (t exp(t) - exp(t) + 1) / R².

Near t = 0 the quotients are series in t, so that nothing is lost as R goes to 0, where they are Σ u
and Σ u² / 2: the mean and the variance. The reference is about the mean, so that these do not
cancel, unless the largest frame is so far above it that its weight is all that counts.
"""

import math

import triton
import triton.language as tl

from milkernels.kernels import formula

#: Values in a state.
ROWS = tl.constexpr(8)

LOG2_E = tl.constexpr(1.4426950408889634)

#: Terms of (exp(t) - 1) / t and of (t exp(t) - exp(t) + 1) / t², whose relative error they leave
#: below 3e-8, or 1e-16 of float64, for |t| up to 1/2.
_FIRST_QUOTIENT = tl.constexpr(tuple(1 / math.factorial(k + 1) for k in range(15)))
_SECOND_QUOTIENT = tl.constexpr(tuple((k + 1) / math.factorial(k + 2) for k in range(15)))

#: How far above the reference, in t, a frame of a tile may lie; twice as far, of several.
ABOVE = tl.constexpr(4.0)

#: Stands for -inf as the reference of nothing: differences of it stay numbers.
LOWEST = tl.constexpr(-3.0e38)

#: exp is 0 below, and a product with it must not be NaN.
_LOWEST_EXPONENT = tl.constexpr(-2000.0)


@triton.jit
def _series(t, TERMS: tl.constexpr):
    """A power series in t, up to 1/2 in size: float32 needs no more than the first terms."""
    terms: tl.constexpr = 15 if t.dtype == tl.float64 else 9
    return formula.polynomial(t, TERMS, terms)


@triton.jit
def arctangent(square):
    """(atanh(w) - w) / w³ of w², up to 1/9."""
    terms: tl.constexpr = 15 if square.dtype == tl.float64 else 7
    value = tl.zeros_like(square)
    for done in tl.static_range(terms):
        value = value * square + 1.0 / (2 * (terms - done) + 1)
    return value


@triton.jit
def empty(zeros):
    infinity = zeros + float("inf")
    return zeros + LOWEST, zeros, zeros, zeros, infinity, -infinity, zeros, zeros


@triton.jit
def exponent(distance, size):
    """t = R u."""
    t = size * distance
    return tl.where(t < _LOWEST_EXPONENT, _LOWEST_EXPONENT, t)


@triton.jit
def power_of(t):
    """exp(t). What float32 rounds off t · log2 e would add up from a frame over its lane to the
    bag."""
    if t.dtype == tl.float64:
        return tl.exp2(t * LOG2_E)
    else:
        return formula.exponential(t)


@triton.jit
def of_frame(distance, size, inverse, LEARN: tl.constexpr):
    """What a frame adds to total, step, slope and spread; and what a change of reference by this
    distance makes of them."""
    t = exponent(distance, size)
    power = power_of(t)
    near = tl.abs(t) < 0.5
    close = tl.where(near, t, 0.0)
    step = tl.where(near, distance * _series(close, _FIRST_QUOTIENT), (power - 1) * inverse)
    slope = tl.zeros_like(power)
    spread = slope
    if LEARN:
        slope = t * power
        spread = (power * (t - 1) + 1) * inverse * inverse
        near_spread = distance * distance * _series(close, _SECOND_QUOTIENT)
        spread = tl.where(near, near_spread, spread)
    return t, power, step, slope, spread


@triton.jit
def _moved(state, reference, size, inverse, LEARN: tl.constexpr):
    """A part's state relative to another reference."""
    own, count, total, step, low, high, slope, spread = state
    distance = tl.where(count == 0, 0.0, own - reference)
    t, power, of_step, _, of_spread = of_frame(distance, size, inverse, LEARN)
    step *= power
    if LEARN:
        slope = power * (slope + t * total)
        spread = power * spread + distance * step + count * of_spread
    total *= power
    return reference, count, total, step + count * of_step, low, high, slope, spread


@triton.jit
def merge(here, there, size, inverse, LEARN: tl.constexpr):
    """State of two parts together."""
    count = here[1] + there[1]
    divisor = tl.where(count == 0, 1.0, count)
    high = tl.maximum(here[5], there[5])
    reference = here[0] * (here[1] / divisor) + there[0] * (there[1] / divisor)
    too_far = size * (high - reference) > 2 * ABOVE
    reference = tl.where(too_far, tl.maximum(here[0], there[0]), reference)
    reference = tl.where(count == 0, LOWEST, reference)
    here = _moved(here, reference, size, inverse, LEARN)
    there = _moved(there, reference, size, inverse, LEARN)
    return (
        reference,
        count,
        here[2] + there[2],
        here[3] + there[3],
        tl.minimum(here[4], there[4]),
        high,
        here[6] + there[6],
        here[7] + there[7],
    )


@triton.jit
def joined(parts, size, inverse, LEARN: tl.constexpr, AXIS: tl.constexpr):
    """State of all parts along AXIS together."""
    count = tl.sum(parts[1], AXIS)
    divisor = tl.where(count == 0, 1.0, count)
    high = tl.max(parts[5], AXIS)
    share = parts[1] / tl.expand_dims(divisor, AXIS)
    reference = tl.sum(parts[0] * share, AXIS)
    too_far = size * (high - reference) > 2 * ABOVE
    reference = tl.where(too_far, tl.max(parts[0], AXIS), reference)
    reference = tl.where(count == 0, LOWEST, reference)
    wide = tl.expand_dims(size, AXIS)
    wide_inverse = tl.expand_dims(inverse, AXIS)
    moved = _moved(parts, tl.expand_dims(reference, AXIS), wide, wide_inverse, LEARN)
    return (
        reference,
        count,
        tl.sum(moved[2], AXIS),
        tl.sum(moved[3], AXIS),
        tl.min(moved[4], AXIS),
        high,
        tl.sum(moved[6], AXIS),
        tl.sum(moved[7], AXIS),
    )


@triton.jit
def store(part, row_stride, state, inside):
    for row in tl.static_range(8):
        tl.store(part + row * row_stride, state[row], mask=inside)


@triton.jit
def load(part, row_stride, inside):
    return (
        tl.load(part, mask=inside, other=LOWEST),
        tl.load(part + row_stride, mask=inside, other=0),
        tl.load(part + 2 * row_stride, mask=inside, other=0),
        tl.load(part + 3 * row_stride, mask=inside, other=0),
        tl.load(part + 4 * row_stride, mask=inside, other=0),
        tl.load(part + 5 * row_stride, mask=inside, other=0),
        tl.load(part + 6 * row_stride, mask=inside, other=0),
        tl.load(part + 7 * row_stride, mask=inside, other=0),
    )
