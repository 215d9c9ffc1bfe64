"""Moments of a weighted bag, part by part: a state is (peak, total, mean, variance, mean_log,
covariance, low, high), one value per class.

`peak` bounds the weights' log2 from above by less than 1, and is whole so that changing it rounds
nothing; `total` sums the weights relative to 2^peak. Mean and variance are x's, mean_log is log2
x's and covariance theirs, all normalised; low and high bound x.
"""

import triton
import triton.language as tl

from milkernels.kernels import formula

#: Values in a state.
ROWS = tl.constexpr(8)

#: Stands for -inf as the peak of nothing: differences of it stay numbers.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def empty(zeros):
    infinity = zeros + float("inf")
    return zeros + LOWEST, zeros, zeros, zeros, zeros, zeros, infinity, -infinity


@triton.jit
def held(mean, low, high):
    """`mean` between its bounds, which rounding may have carried it over; NaN stays."""
    mean = tl.where(mean < low, low, mean)
    return tl.where(mean > high, high, mean)


@triton.jit
def _settled(products, divisor, low, high, leader, FORMULA: tl.constexpr):
    """The average from a sum of products, between its bounds. A frame that outweighs the rest is
    the average: what its weight's product and quotient round off is put back. The heaviest frame is
    the leader or, where weights grow or fall with x alone, one of the bounds."""
    mean = held(formula.quotient(products, divisor), low, high)
    if FORMULA.leads:
        mean = tl.where(products == leader * divisor, leader, mean)
    elif not FORMULA.direct:
        mean = tl.where(products == low * divisor, low, mean)
        mean = tl.where(products == high * divisor, high, mean)
    return mean


@triton.jit
def bounds(x, real, AXIS: tl.constexpr, ALL_REAL: tl.constexpr):
    """The smallest and the largest of the real frames along AXIS."""
    if ALL_REAL:
        return tl.min(x, AXIS), tl.max(x, AXIS)
    else:
        low = tl.min(tl.where(real, x, float("inf")), AXIS)
        return low, tl.max(tl.where(real, x, -float("inf")), AXIS)


@triton.jit
def of_tile(x, log2_x, weight, peak, leader, real, FORMULA: tl.constexpr, AXIS: tl.constexpr):
    """State of a tile's real frames, which lie along AXIS. `leader` is the value of one that
    outweighs the rest, where the formula asks for it."""
    low, high = bounds(x, real, AXIS, False)
    weight = tl.where(real, weight, 0.0)
    x = tl.where(real, x, 0.0)
    total = tl.sum(weight, AXIS)
    divisor = tl.where(total == 0, 1.0, total)
    mean = _settled(tl.sum(weight * x, AXIS), divisor, low, high, leader, FORMULA)
    mean = tl.where(total == 0, 0.0, mean)
    variance = tl.zeros_like(total)
    mean_log = tl.zeros_like(total)
    covariance = tl.zeros_like(total)
    residual = x - tl.expand_dims(mean, AXIS)
    if FORMULA.variance:
        variance = tl.sum(weight * residual * residual, AXIS) / divisor
    if FORMULA.covariance:
        mean_log = tl.sum(weight * log2_x, AXIS) / divisor
        residual_log = log2_x - tl.expand_dims(mean_log, AXIS)
        # What the mean of a few rounds off would not cancel where it meets others.
        mean_log += tl.sum(weight * residual_log, AXIS) / divisor
        covariance = tl.sum(weight * residual * residual_log, AXIS) / divisor
    return peak, total, mean, variance, mean_log, covariance, low, high


@triton.jit
def of_sums(sums, FORMULA: tl.constexpr, AXIS: tl.constexpr):
    """State of all parts along AXIS, of which only sums are known: (peak, total, products, low,
    high, leader)."""
    peaks, totals, products, lows, highs, leaders = sums
    peak = tl.max(peaks, AXIS)
    if not FORMULA.direct:
        scale = tl.exp2(peaks - tl.expand_dims(peak, AXIS))
        totals *= scale
        products *= scale
    total = tl.sum(totals, AXIS)
    divisor = tl.where(total == 0, 1.0, total)
    low, high = tl.min(lows, AXIS), tl.max(highs, AXIS)
    leader = low
    if FORMULA.leads:
        heaviest = totals == tl.expand_dims(tl.max(totals, AXIS), AXIS)
        leader = tl.max(tl.where(heaviest, leaders, -float("inf")), AXIS)
    mean = _settled(tl.sum(products, AXIS), divisor, low, high, leader, FORMULA)
    mean = tl.where(total == 0, 0.0, mean)
    nothing = tl.zeros_like(total)
    return peak, total, mean, nothing, nothing, nothing, low, high


@triton.jit
def joined(states, FORMULA: tl.constexpr, AXIS: tl.constexpr):
    """State of all parts along AXIS together."""
    peaks, totals, means, variances, means_log, covariances, lows, highs = states
    sums = (peaks, totals, totals * means, lows, highs, means)
    peak, total, mean, _, _, _, low, high = of_sums(sums, FORMULA, AXIS)
    weight = totals * tl.exp2(peaks - tl.expand_dims(peak, AXIS))
    divisor = tl.where(total == 0, 1.0, total)
    variance = tl.zeros_like(total)
    mean_log = tl.zeros_like(total)
    covariance = tl.zeros_like(total)
    step = means - tl.expand_dims(mean, AXIS)
    if FORMULA.variance:
        variance = tl.sum(weight * (variances + step * step), AXIS) / divisor
    if FORMULA.covariance:
        mean_log = tl.sum(weight * means_log, AXIS) / divisor
        step_log = means_log - tl.expand_dims(mean_log, AXIS)
        covariance = tl.sum(weight * (covariances + step * step_log), AXIS) / divisor
    return peak, total, mean, variance, mean_log, covariance, low, high


@triton.jit
def merge(here, there, FORMULA: tl.constexpr):
    """State of two parts together."""
    peak, total, mean, variance, mean_log, covariance, low, high = here
    peak_b, total_b, mean_b, variance_b, mean_log_b, covariance_b, low_b, high_b = there
    joint_peak = tl.maximum(peak, peak_b)
    weight, weight_b = total, total_b
    if not FORMULA.direct:
        weight *= tl.exp2(peak - joint_peak)
        weight_b *= tl.exp2(peak_b - joint_peak)
    joint_total = weight + weight_b
    share = formula.quotient(weight_b, tl.where(joint_total == 0, 1.0, joint_total))
    step = mean_b - mean
    # From the nearer of the two, which stays what it is beside a part without weight.
    joint_mean = tl.where(share > 0.5, mean_b - (1 - share) * step, mean + share * step)
    step_log = mean_log_b - mean_log
    between = share * (1 - share)
    return (
        joint_peak,
        joint_total,
        joint_mean,
        variance + share * (variance_b - variance) + between * step * step,
        mean_log + share * step_log,
        covariance + share * (covariance_b - covariance) + between * step * step_log,
        tl.minimum(low, low_b),
        tl.maximum(high, high_b),
    )


@triton.jit
def store(pointer, row_stride, state, inside):
    for row in tl.static_range(8):
        tl.store(pointer + row * row_stride, state[row], mask=inside)


@triton.jit
def load(pointer, row_stride, inside):
    return (
        tl.load(pointer, mask=inside, other=LOWEST),
        tl.load(pointer + row_stride, mask=inside, other=0),
        tl.load(pointer + 2 * row_stride, mask=inside, other=0),
        tl.load(pointer + 3 * row_stride, mask=inside, other=0),
        tl.load(pointer + 4 * row_stride, mask=inside, other=0),
        tl.load(pointer + 5 * row_stride, mask=inside, other=0),
        tl.load(pointer + 6 * row_stride, mask=inside, other=0),
        tl.load(pointer + 7 * row_stride, mask=inside, other=0),
    )


@triton.jit
def average(state):
    """Mean of x, held between its bounds; 0 where nothing had weight."""
    _, total, mean, _, _, _, low, high = state
    return tl.where(total == 0, 0.0, held(mean, low, high))


@triton.jit
def normaliser(state):
    """Peak and total; where nothing had weight, 0 and an infinity that takes gradients to 0."""
    nothing = state[1] == 0
    return tl.where(nothing, 0.0, state[0]), tl.where(nothing, float("inf"), state[1])
