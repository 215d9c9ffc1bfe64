"""Moments of a weighted bag, part by part: a state is (peak, total, mean, variance, mean_log,
covariance, low, high), one value per class.

`peak` bounds the weights' log2 from above by less than 1, and is whole so that changing it rounds
nothing; `total` sums the weights relative to 2^peak. Mean and variance are x's, mean_log is log2
x's and covariance theirs, all normalised; low and high bound x.
"""

import triton
import triton.language as tl

#: Values in a state.
ROWS = tl.constexpr(8)

#: Stands for -inf as the peak of nothing: differences of it stay numbers.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def empty(BLOCK: tl.constexpr, COMPUTE: tl.constexpr):
    zeros = tl.zeros((BLOCK,), COMPUTE)
    infinity = zeros + float("inf")
    return zeros + LOWEST, zeros, zeros, zeros, zeros, zeros, infinity, -infinity


@triton.jit
def held(mean, low, high):
    """`mean` between its bounds, which rounding may have carried it over; NaN stays."""
    mean = tl.where(mean < low, low, mean)
    return tl.where(mean > high, high, mean)


@triton.jit
def of_tile(x, log2_x, weight, peak, leader, real, FORMULA: tl.constexpr):
    """State of a (classes, frames) tile, of its real frames. `leader` is the value of one that
    outweighs the rest: what its weight's product and quotient round off is put back."""
    weight = tl.where(real, weight, 0.0)
    x = tl.where(real, x, 0.0)
    total = tl.sum(weight, 1)
    divisor = tl.where(total == 0, 1.0, total)
    low = tl.min(tl.where(real, x, float("inf")), 1)
    high = tl.max(tl.where(real, x, -float("inf")), 1)
    products = tl.sum(weight * x, 1)
    mean = tl.where(total == 0, 0.0, held(products / divisor, low, high))
    mean = tl.where(products == leader * divisor, leader, mean)
    variance = tl.zeros_like(total)
    mean_log = tl.zeros_like(total)
    covariance = tl.zeros_like(total)
    residual = x - mean[:, None]
    if FORMULA.variance:
        variance = tl.sum(weight * residual * residual, 1) / divisor
    if FORMULA.covariance:
        mean_log = tl.sum(weight * log2_x, 1) / divisor
        covariance = tl.sum(weight * residual * (log2_x - mean_log[:, None]), 1) / divisor
    return peak, total, mean, variance, mean_log, covariance, low, high


@triton.jit
def merge(here, there):
    """State of two parts together."""
    peak, total, mean, variance, mean_log, covariance, low, high = here
    peak_b, total_b, mean_b, variance_b, mean_log_b, covariance_b, low_b, high_b = there
    joint_peak = tl.maximum(peak, peak_b)
    weight = total * tl.exp2(peak - joint_peak)
    weight_b = total_b * tl.exp2(peak_b - joint_peak)
    joint_total = weight + weight_b
    share = weight_b / tl.where(joint_total == 0, 1.0, joint_total)
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
