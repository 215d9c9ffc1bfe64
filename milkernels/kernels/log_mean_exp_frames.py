"""Log-mean-exp in Triton: what the kernels of padded and of packed bags share."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, tiles
from milkernels.kernels import log_mean_exp_sums as states


@triton.jit
def sharpness_of(sharpness_ptr, class_index, inside, COMPUTE: tl.constexpr):
    """R, its sign in r, and 1 / R; 0 for R = 0."""
    r = tl.load(sharpness_ptr + class_index, mask=inside, other=1).to(COMPUTE)
    inverse = tl.where(r == 0, 0.0, 1 / tl.where(r == 0, 1.0, tl.abs(r)))
    return tl.abs(r), tl.where(r < 0, -1.0, 1.0).to(COMPUTE), inverse


@triton.jit
def _state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS: tl.constexpr, LEARN: tl.constexpr):
    """The state of a tile's real frames."""
    x, _ = formula.probability(raw, FROM_LOGITS)
    x *= sign[:, None]
    count = tl.sum(tl.where(real, 1.0, 0.0).to(raw.dtype), 1)
    high = tl.max(tl.where(real, x, -float("inf")), 1)
    reference = tl.sum(tl.where(real, x, 0.0), 1) / tl.where(count == 0, 1.0, count)
    reference = tl.where(size * (high - reference) > states.ABOVE, high, reference)
    reference = tl.where(count == 0, states.LOWEST, reference)
    distance = tl.where(real, x - reference[:, None], 0.0)
    _, power, step, slope, spread = states.of_frame(
        distance, size[:, None], inverse[:, None], LEARN
    )
    return (
        reference,
        count,
        tl.sum(tl.where(real, power, 0.0), 1),
        tl.sum(step, 1),
        tl.min(tl.where(real, x, float("inf")), 1),
        high,
        tl.sum(slope, 1),
        tl.sum(spread, 1),
    )


@triton.jit
def sums_of_frames(
    x_ptr,
    mask_ptr,
    bag,
    class_start,
    has_class,
    first,
    last,
    size,
    sign,
    inverse,
    x_strides,
    mask_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LEARN: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """State of some frames of a bag's block of classes."""
    state = states.empty(BLOCK_CLASSES, COMPUTE)
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
        here = _state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS, LEARN)
        state = states.merge(state, here, size, inverse, LEARN)
    return state


@triton.jit
def _finished(state, size, sign, inverse, LEARN: tl.constexpr):
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
    y, reference, total, learned = _finished(state, size, sign, inverse, LEARN)
    tl.store(y_ptr + cell, y, mask=inside)
    row = statistics_ptr + cell
    tl.store(row, reference, mask=inside)
    tl.store(row + cells, total, mask=inside)
    if LEARN:
        tl.store(row + 2 * cells, learned, mask=inside)


@triton.jit
def _gradient_of_tile(raw, real, size, sign, reference, scale, FROM_LOGITS: tl.constexpr):
    """A tile's gradient; `scale` is the bag value's over the total."""
    x, complement = formula.probability(raw, FROM_LOGITS)
    distance = tl.where(real, x * sign[:, None] - reference[:, None], 0.0)
    exponent = states.exponent(distance, size[:, None])
    x_gradient = scale[:, None] * tl.exp2(exponent * states.LOG2_E)
    if FROM_LOGITS:
        x_gradient *= x * complement
    return x_gradient


@triton.jit
def gradients_of_frames(
    gradient_ptr,
    x_ptr,
    sharpness_ptr,
    mask_ptr,
    statistics_ptr,
    x_gradient_ptr,
    bags,
    bag,
    row,
    classes,
    class_start,
    first,
    last,
    gradient_strides,
    x_strides,
    mask_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Write the gradient of some frames of a bag's block of classes, which are in `row` of the
    frame tensors: g exp(r x_i) / Σ exp(r x_j)."""
    cells = tl.cast(bags, tl.int64) * classes
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    size, sign, _ = sharpness_of(sharpness_ptr, class_index, has_class, COMPUTE)
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    gradient = tl.load(address, mask=has_class, other=0).to(COMPUTE)
    reference = tl.load(cell, mask=has_class, other=0)
    scale = gradient / tl.load(cell + cells, mask=has_class, other=1)
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, row, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, row, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
        x_gradient = _gradient_of_tile(raw, real, size, sign, reference, scale, FROM_LOGITS)
        x_gradient_tile = tiles.pointers(
            x_gradient_ptr,
            row,
            class_start,
            frame_start,
            x_gradient_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        tl.store(x_gradient_tile, tl.where(real, x_gradient, 0.0), mask=inside)
