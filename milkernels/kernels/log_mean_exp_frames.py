"""Log-mean-exp in Triton: what the kernels of padded and of packed bags share."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import block_walk, formula, lanes, moments
from milkernels.kernels import log_mean_exp_sums as states


@triton.jit
def sharpness_of(sharpness_ptr, class_index, inside, COMPUTE: tl.constexpr):
    """R, its sign in r, and 1 / R; 0 for R = 0."""
    r = tl.load(sharpness_ptr + class_index, mask=inside, other=1).to(COMPUTE)
    inverse = tl.where(r == 0, 0.0, 1 / tl.where(r == 0, 1.0, tl.abs(r)))
    return tl.abs(r), tl.where(r < 0, -1.0, 1.0).to(COMPUTE), inverse


@triton.jit
def _state_of_tile(
    raw,
    real,
    size,
    sign,
    inverse,
    FROM_LOGITS: tl.constexpr,
    LEARN: tl.constexpr,
    AXIS: tl.constexpr,
    ALL_REAL: tl.constexpr = False,
):
    """The state of a tile's real frames, which lie along AXIS; the sharpness' parts are those of
    what is left without it."""
    x, _ = formula.probability(raw, FROM_LOGITS)
    x *= tl.expand_dims(sign, AXIS)
    low, high = moments.bounds(x, real, AXIS, ALL_REAL)
    count = tl.zeros_like(high) + raw.shape[AXIS]
    if not ALL_REAL:
        count = tl.sum(tl.where(real, 1, 0), AXIS).to(x.dtype)
        x = tl.where(real, x, 0.0)
    reference = tl.sum(x, AXIS) / tl.where(count == 0, 1.0, count)
    reference = tl.where(size * (high - reference) > states.ABOVE, high, reference)
    reference = tl.where(count == 0, states.LOWEST, reference)
    distance = x - tl.expand_dims(reference, AXIS)
    if not ALL_REAL:
        distance = tl.where(real, distance, 0.0)
    _, power, step, slope, spread = states.of_frame(
        distance, tl.expand_dims(size, AXIS), tl.expand_dims(inverse, AXIS), LEARN
    )
    if not ALL_REAL:
        power = tl.where(real, power, 0.0)
    return (
        reference,
        count,
        tl.sum(power, AXIS),
        tl.sum(step, AXIS),
        low,
        high,
        tl.sum(slope, AXIS),
        tl.sum(spread, AXIS),
    )


@triton.jit
def with_block(
    state,
    raw,
    real,
    sharpness,
    ALL_REAL: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    LEARN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The lanes' states with one more block."""
    size, sign, inverse = sharpness
    size, sign, inverse = size[:, None], sign[:, None], inverse[:, None]
    raw = lanes.folded(raw, BLOCK)
    real = lanes.folded(real, BLOCK)
    here = _state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS, LEARN, 0, ALL_REAL)
    return states.merge(state, here, size, inverse, LEARN)


@triton.jit
def _with_frames(
    state,
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    LEARN: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    x, mask, place, sharpness = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    raw = lanes.read(x, place, frame_start, inside, BLOCK)
    all_real: tl.constexpr = WHOLE and not MASKED
    return with_block(state, raw, real, sharpness, all_real, FROM_LOGITS, LEARN, BLOCK)


@triton.jit
def sums_of_frames(
    x,
    mask,
    place,
    first,
    last,
    sharpness,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LEARN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """State of some frames of a bag's block of classes."""
    state = states.empty(lanes.zeros(BLOCK))
    given = (x, mask, place, sharpness)
    state = block_walk.gather(
        state, given, first, last, _with_frames, LEARN, FROM_LOGITS, MASKED, BLOCK
    )
    size, _, inverse = sharpness
    return states.joined(state, size, inverse, LEARN, 1)


@triton.jit
def finished(state, size, sign, inverse, LEARN: tl.constexpr):
    """The bag value, its reference and total, and dy/dr."""
    reference, count, total, step, low, high, slope, spread = state
    nothing = count == 0
    total = tl.where(nothing, 1.0, total)
    mean = total / tl.where(nothing, 1.0, count)
    far = (mean < 0.5) | (mean > 2)
    # log(mean) by its own series, with w = (1 - mean) / (1 + mean), q = 1 / mean - 1, both over R.
    q = -step / total
    w = q / (2 + size * q)
    scaled = size * w
    rest = states.arctangent(tl.where(far, 0.0, scaled * scaled))
    logarithm = -tl.log2(tl.where(far, mean, 1.0)) * formula.LN_2
    near = 2 * (w + w * scaled * scaled * rest)
    y = reference - tl.where(far, logarithm * inverse, near)
    y = tl.where(y < low, low, y)
    y = tl.where(y > high, high, y)
    learned = tl.zeros_like(y)
    if LEARN:
        near = spread / total - w * (q - 2 * w * scaled * rest)
        learned = tl.where(far, (slope / total + logarithm) * inverse * inverse, near)
        learned = tl.where(nothing | (learned < 0), 0.0, learned)
    # Dividing by infinity takes every frame's gradient to 0.
    return (
        tl.where(nothing, 0.0, sign * y),
        tl.where(nothing, 0.0, reference),
        tl.where(nothing, float("inf"), total),
        learned,
    )


@triton.jit
def finish(
    state,
    size,
    sign,
    inverse,
    y_ptr,
    statistics_ptr,
    cell,
    cells,
    inside,
    LEARN: tl.constexpr,
):
    """Write the bag value and the statistics: reference, total, and dy/dr."""
    y, reference, total, learned = finished(state, size, sign, inverse, LEARN)
    tl.store(y_ptr + cell, y, mask=inside)
    row = statistics_ptr + cell
    tl.store(row, reference, mask=inside)
    tl.store(row + cells, total, mask=inside)
    if LEARN:
        tl.store(row + 2 * cells, learned, mask=inside)


@triton.jit
def gradient_of_tile(raw, known, FROM_LOGITS: tl.constexpr):
    """A tile's gradient, from what is known of the bag."""
    size, sign, reference, scale = known
    x, complement = formula.probability(raw, FROM_LOGITS)
    exponent = states.exponent(x * sign - reference, size)
    x_gradient = scale * states.power_of(exponent)
    if FROM_LOGITS:
        x_gradient *= x * complement
    return x_gradient


@triton.jit
def known_of_bag(size, sign, reference, scale):
    """What gradients need to know of a bag's block of classes, beside its elements: size and sign
    of the sharpness, the reference, and the bag value's gradient over the total."""
    return (
        lanes.per_class(size),
        lanes.per_class(sign),
        lanes.per_class(reference),
        lanes.per_class(scale),
    )


@triton.jit
def write_gradients(
    known,
    x,
    mask,
    x_gradient,
    place,
    first,
    last,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of some frames, from what is known of the bag."""
    given = (known, x, mask, x_gradient, place)
    step: tl.constexpr = block_walk.write_gradient
    block_walk.write(given, first, last, step, gradient_of_tile, FROM_LOGITS, MASKED, BLOCK)


@triton.jit
def gradients_of_frames(
    gradient,
    x,
    sharpness_ptr,
    mask,
    statistics_ptr,
    x_gradient,
    bags,
    bag,
    place,
    first,
    last,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of some frames of a bag's block of classes; the place says where they are
    in the frame tensors: g exp(r x_i) / Σ exp(r x_j)."""
    _, class_start, classes = place
    gradient_ptr, gradient_strides = gradient
    cells = tl.cast(bags, tl.int64) * classes
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    size, sign, _ = sharpness_of(sharpness_ptr, class_index, has_class, BLOCK.compute)
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    scale = tl.load(address, mask=has_class, other=0).to(BLOCK.compute)
    reference = tl.load(cell, mask=has_class, other=0)
    scale /= tl.load(cell + cells, mask=has_class, other=1)
    known = known_of_bag(size, sign, reference, scale)
    write_gradients(known, x, mask, x_gradient, place, first, last, FROM_LOGITS, MASKED, BLOCK)
