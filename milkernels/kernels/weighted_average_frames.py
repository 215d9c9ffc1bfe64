"""Weighted averages in Triton, forward: what the kernels of padded and of packed bags share."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import block_walk, formula, lanes, moments

#: Rows of the statistics (rows, bags, classes) that the forward pass leaves for the backward pass.
#: The learned parameters' covariances with y follow: alpha's, then power's.
PEAK = tl.constexpr(0)
TOTAL = tl.constexpr(1)
AVERAGE = tl.constexpr(2)
COVARIANCES = tl.constexpr(3)


@triton.jit
def coefficient(pointer, class_index, has_class, KIND: tl.constexpr, COMPUTE: tl.constexpr):
    """A coefficient of the log-weight, of each class."""
    if KIND == formula.LEARNED:
        return tl.load(pointer + class_index, mask=has_class, other=0).to(COMPUTE)
    else:
        return tl.full(class_index.shape, 1.0, COMPUTE)


@triton.jit
def read_block(
    x, scores, place, frame_start, inside, real, FORMULA: tl.constexpr, BLOCK: tl.constexpr
):
    """A block's raw values and scores, masked frames 0; without scores, the raw values again."""
    raw = lanes.read(x, place, frame_start, inside, BLOCK)
    if FORMULA.masked:
        raw = tl.where(real, raw, 0.0)
    score = raw
    if FORMULA.scores:
        score = lanes.read(scores, place, frame_start, inside, BLOCK)
        if FORMULA.masked:
            score = tl.where(real, score, 0.0)
    return raw, score


@triton.jit
def _leading(log2_weight, x, top, AXIS: tl.constexpr):
    """The value of the heaviest frame."""
    heaviest = log2_weight == tl.expand_dims(top, AXIS)
    return tl.max(tl.where(heaviest, x, -float("inf")), AXIS)


@triton.jit
def _state_of_tile(raw, score, real, alpha, power, FORMULA: tl.constexpr, AXIS: tl.constexpr):
    """The moments of a tile's real frames, which lie along AXIS."""
    x, _ = formula.probability(raw, FORMULA.from_logits)
    log2_x = formula.log2_x(raw, FORMULA)
    if FORMULA.direct:
        weight = formula.direct_weight(x, score, FORMULA)
        peak = tl.max(tl.zeros_like(x), AXIS)
        leader = peak
    else:
        log2_weight = formula.log2_weight(0.0, x, log2_x, score, alpha, power, FORMULA)
        log2_weight = tl.where(real, log2_weight, -float("inf"))
        top = tl.max(log2_weight, AXIS)
        leader = top
        if FORMULA.leads:
            leader = _leading(log2_weight, x, top, AXIS)
        peak = formula.finite_peak(tl.where(top < moments.LOWEST, moments.LOWEST, top))
        of_tile = tl.expand_dims(peak, AXIS)
        weight = formula.weight_below(of_tile, x, log2_x, score, alpha, power, FORMULA)
    return moments.of_tile(x, log2_x, weight, peak, leader, real, FORMULA, AXIS)


@triton.jit
def _with_tile(sums, raw, score, real, alpha, power, FORMULA: tl.constexpr, ALL_REAL: tl.constexpr):
    """A lane's sums, (peak, total, products, low, high, leader, its log-weight), with its frames of
    one more block."""
    peak, total, products, low, high, leader, best = sums
    x, _ = formula.probability(raw, FORMULA.from_logits)
    log2_x = formula.log2_x(raw, FORMULA)
    if FORMULA.direct:
        weight = formula.direct_weight(x, score, FORMULA)
    elif FORMULA.peaks_at_zero:
        peak = tl.zeros_like(peak)
        weight = tl.exp2(formula.log2_weight(0.0, x, log2_x, score, alpha, power, FORMULA))
    else:
        log2_weight = formula.log2_weight(0.0, x, log2_x, score, alpha, power, FORMULA)
        if not ALL_REAL:
            log2_weight = tl.where(real, log2_weight, -float("inf"))
        top = tl.max(log2_weight, 0)
        if FORMULA.leads:
            leader = tl.where(top > best, _leading(log2_weight, x, top, 0), leader)
            best = tl.maximum(best, top)
        peak_before = peak
        peak = tl.maximum(peak, formula.finite_peak(top))
        scale = tl.exp2(peak_before - peak)
        total *= scale
        products *= scale
        of_lanes = peak[None, :, :]
        weight = formula.weight_below(of_lanes, x, log2_x, score, alpha, power, FORMULA)
    here_low, here_high = moments.bounds(x, real, 0, ALL_REAL)
    if not ALL_REAL:
        # Of frames that are not real, x is finite.
        weight = tl.where(real, weight, 0.0)
    total += tl.sum(weight, 0)
    products += tl.sum(weight * x, 0)
    low, high = tl.minimum(low, here_low), tl.maximum(high, here_high)
    return peak, total, products, low, high, leader, best


@triton.jit
def empty(FORMULA: tl.constexpr, BLOCK: tl.constexpr):
    """The lanes' states before any frame."""
    state = moments.empty(lanes.zeros(BLOCK))
    if not FORMULA.learns:
        peak, zeros, _, _, _, _, low, high = state
        state = (peak, zeros, zeros, low, high, zeros, peak)
    return state


@triton.jit
def with_block(
    state,
    raw,
    score,
    real,
    alpha,
    power,
    ALL_REAL: tl.constexpr,
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The lanes' states with one more block; its coefficients are those of a block's classes."""
    alpha, power = alpha[None, :, None], power[None, :, None]
    raw = lanes.folded(raw, BLOCK)
    score = lanes.folded(score, BLOCK)
    real = lanes.folded(real, BLOCK)
    if FORMULA.learns:
        here = _state_of_tile(raw, score, real, alpha, power, FORMULA, 0)
        return moments.merge(state, here, FORMULA)
    else:
        return _with_tile(state, raw, score, real, alpha, power, FORMULA, ALL_REAL)


@triton.jit
def joined(state, FORMULA: tl.constexpr):
    """State of all lanes of each class together."""
    if FORMULA.learns:
        return moments.joined(state, FORMULA, 1)
    else:
        peak, total, products, low, high, leader, _ = state
        return moments.of_sums((peak, total, products, low, high, leader), FORMULA, 1)


@triton.jit
def _with_frames(
    state,
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    x, scores, mask, place, alpha, power = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    raw, score = read_block(x, scores, place, frame_start, inside, real, FORMULA, BLOCK)
    all_real: tl.constexpr = WHOLE and not MASKED
    return with_block(state, raw, score, real, alpha, power, all_real, FORMULA, BLOCK)


@triton.jit
def sums_of_frames(
    x,
    scores,
    mask,
    place,
    first,
    last,
    alpha,
    power,
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """State of some frames of a bag's block of classes."""
    given = (x, scores, mask, place, alpha, power)
    from_logits: tl.constexpr = FORMULA.from_logits
    masked: tl.constexpr = FORMULA.masked
    state = empty(FORMULA, BLOCK)
    state = block_walk.gather(
        state, given, first, last, _with_frames, FORMULA, from_logits, masked, BLOCK
    )
    return joined(state, FORMULA)


@triton.jit
def finish(state, y_ptr, statistics_ptr, cell, cells, inside, FORMULA: tl.constexpr):
    """Write the bag value and the statistics."""
    y = moments.average(state)
    peak, total = moments.normaliser(state)
    tl.store(y_ptr + cell, y, mask=inside)
    row = statistics_ptr + cell
    tl.store(row + PEAK * cells, peak, mask=inside)
    tl.store(row + TOTAL * cells, total, mask=inside)
    tl.store(row + AVERAGE * cells, y, mask=inside)
    if FORMULA.variance:
        tl.store(row + COVARIANCES * cells, state[3], mask=inside)
    if FORMULA.covariance:
        covariance = state[5] * formula.LN_2
        tl.store(row + (COVARIANCES + FORMULA.variance) * cells, covariance, mask=inside)
