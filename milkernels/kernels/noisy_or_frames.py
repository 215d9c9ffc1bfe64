"""Noisy-or in Triton: what the kernels of padded and of packed bags share.

The product is kept as (high + low) · 2^exponent with high in [1, 2) or (-2, -1]: `low` holds what
each multiplication and each 1 - x loses, so that y is exact for small frames and many of them, and
nothing underflows. Frames that are 1 are left out of it and counted.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, tiles

#: Logits beyond this have 1 - σ = 0 in any type.
_LARGEST_LOGIT = tl.constexpr(1.0e6)


@triton.jit
def _upper_half(value):
    """The upper half of a significand, which multiplies without rounding."""
    if value.dtype == tl.float64:
        return (value.to(tl.int64, bitcast=True) & -(1 << 27)).to(tl.float64, bitcast=True)
    else:
        return (value.to(tl.int32, bitcast=True) & -(1 << 12)).to(tl.float32, bitcast=True)


@triton.jit
def _normalised(high, low, exponent):
    """`high` in [1, 2) or (-2, -1], and `low` below its last digit."""
    if high.dtype == tl.float64:
        biased = (high.to(tl.int64, bitcast=True) >> 52) & 2047
        scale = ((2046 - biased) << 52).to(tl.float64, bitcast=True)
        exponent += (biased - 1023).to(tl.float64)
    else:
        biased = (high.to(tl.int32, bitcast=True) >> 23) & 255
        scale = ((254 - biased) << 23).to(tl.float32, bitcast=True)
        exponent += (biased - 127).to(tl.float32)
    high *= scale
    low *= scale
    total = high + low
    return total, low - (total - high), exponent


@triton.jit
def _multiply(high, low, exponent, high_b, low_b, exponent_b):
    """The product of two products."""
    product = high * high_b
    upper, upper_b = _upper_half(high), _upper_half(high_b)
    lower, lower_b = high - upper, high_b - upper_b
    # In this order every sum is exact (Dekker).
    lost = ((upper * upper_b - product) + upper * lower_b) + lower * upper_b + lower * lower_b
    low = tl.fma(high, low_b, tl.fma(low, high_b, lost))
    return _normalised(product, low, exponent + exponent_b)


@triton.jit
def _one_minus(x):
    """1 - x, and what it loses."""
    high = 1 - x
    taken = high - 1
    return high, (1 - (high - taken)) - (x + taken)


@triton.jit
def _factor(raw, FROM_LOGITS: tl.constexpr):
    """1 - x of each frame as a product, and whether it is 0 and left out, which it is not of
    logits."""
    zero = tl.zeros_like(raw)
    if FROM_LOGITS:
        minus = -tl.abs(raw)
        minus = tl.where(minus < -_LARGEST_LOGIT, -_LARGEST_LOGIT, minus)
        fraction, whole = formula.split_exponential(minus)
        decay = fraction * tl.exp2(whole)
        larger = 1 / (1 + decay)
        high, low = _one_minus(decay * larger)
        large = raw > 0
        high = tl.where(large, fraction * larger, high)
        return high, tl.where(large, 0.0, low), tl.where(large, whole, 0.0), zero != 0
    else:
        high, low = _one_minus(raw)
        is_one = high == 0
        return tl.where(is_one, 1.0, high), low, zero, is_one


@triton.jit
def _halves(tile):
    """A (classes, frames) tile's even and odd frames."""
    return tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1] // 2, 2)))


@triton.jit
def _over_frames(high, low, exponent, BLOCK_CLASSES: tl.constexpr, LEVELS: tl.constexpr):
    """The product over a tile's 2^LEVELS frames, pair by pair."""
    for _ in tl.static_range(LEVELS):
        high, high_b = _halves(high)
        low, low_b = _halves(low)
        exponent, exponent_b = _halves(exponent)
        high, low, exponent = _multiply(high, low, exponent, high_b, low_b, exponent_b)
    shape: tl.constexpr = (BLOCK_CLASSES,)
    return tl.reshape(high, shape), tl.reshape(low, shape), tl.reshape(exponent, shape)


@triton.jit
def _times_tile(high, low, exponent, ones, raw, real, FROM_LOGITS: tl.constexpr):
    """Each place's product with a tile's frame there, and how many frames are 1."""
    factor, lost, apart, is_one = _factor(raw, FROM_LOGITS)
    factor = tl.where(real, factor, 1.0)
    lost = tl.where(real, lost, 0.0)
    apart = tl.where(real, apart, 0.0)
    high, low, exponent = _multiply(high, low, exponent, factor, lost, apart)
    return high, low, exponent, ones + tl.where(real & is_one, 1.0, 0.0)


@triton.jit
def product_of_frames(
    x_ptr,
    mask_ptr,
    bag,
    class_start,
    has_class,
    first,
    last,
    x_strides,
    mask_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Product over some frames of a bag's block of classes: every place of a tile multiplies its
    own frames, then the places multiply."""
    high = tl.full((BLOCK_CLASSES, BLOCK_FRAMES), 1.0, COMPUTE)
    low = tl.zeros((BLOCK_CLASSES, BLOCK_FRAMES), COMPUTE)
    exponent = low
    ones = low
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.where(real, tl.load(x_tile, mask=inside, other=0).to(COMPUTE), 0.0)
        high, low, exponent, ones = _times_tile(high, low, exponent, ones, raw, real, FROM_LOGITS)
    high, low, exponent = _over_frames(high, low, exponent, BLOCK_CLASSES, LEVELS)
    return high, low, exponent, tl.sum(ones, 1)


@triton.jit
def store_part(high, low, exponent, ones, part, row_stride, inside):
    tl.store(part, high, mask=inside)
    tl.store(part + row_stride, low, mask=inside)
    tl.store(part + 2 * row_stride, exponent, mask=inside)
    tl.store(part + 3 * row_stride, ones, mask=inside)


@triton.jit
def load_part(part, row_stride, inside):
    return (
        tl.load(part, mask=inside, other=1),
        tl.load(part + row_stride, mask=inside, other=0),
        tl.load(part + 2 * row_stride, mask=inside, other=0),
        tl.load(part + 3 * row_stride, mask=inside, other=0),
    )


@triton.jit
def merge(state, there):
    """The product of two parts."""
    high, low, exponent, ones = state
    high_b, low_b, exponent_b, ones_b = there
    high, low, exponent = _multiply(high, low, exponent, high_b, low_b, exponent_b)
    return high, low, exponent, ones + ones_b


@triton.jit
def _bag_value(high, low, exponent, ones):
    scale = tl.exp2(exponent)
    return tl.where(ones > 0, 1.0, (1 - high * scale) - low * scale)


@triton.jit
def survival(factor, exponent, ones):
    """1 - y, negative where a frame is 1, and the factor and exponent of a gradient. Where no frame
    is 1 the gradient will be that of -log(1 - y): 1 - y, which may underflow, is not in them."""
    rest = tl.where(ones > 0, -1.0, factor * tl.exp2(exponent))
    survives = (ones == 0) & (factor >= 0)
    return rest, tl.where(survives, 1.0, factor), tl.where(survives, 0.0, exponent)


@triton.jit
def finish(high, low, exponent, ones, y_ptr, statistics_ptr, cell, cells, inside):
    """Write the bag value and the statistics."""
    tl.store(y_ptr + cell, _bag_value(high, low, exponent, ones), mask=inside)
    row = statistics_ptr + cell
    tl.store(row, tl.where(ones > 1, 0.0, high + low), mask=inside)
    tl.store(row + cells, exponent, mask=inside)
    tl.store(row + 2 * cells, ones, mask=inside)


@triton.jit
def _gradient_of_tile(raw, scaled, exponent, single, FROM_LOGITS: tl.constexpr):
    """A tile's gradient; `scaled` is the bag value's times the product's factor, and `single` says
    that one frame is 1."""
    # Two powers of two, where one might underflow before the division makes up for it.
    half = tl.ceil(exponent * 0.5)
    scale, scale_b = tl.exp2(half)[:, None], tl.exp2(exponent - half)[:, None]
    if FROM_LOGITS:
        x, _ = formula.probability(raw, True)
        return scaled[:, None] * x * scale * scale_b
    else:
        factor = 1 - raw
        is_one = factor == 0
        others = scaled[:, None] / tl.where(is_one, 1.0, factor) * scale * scale_b
        return tl.where(is_one == single[:, None], others, 0.0)


@triton.jit
def gradients_of_frames(
    gradient_ptr,
    x_ptr,
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
    frame tensors: g times the product without its own factor; from logits g (1 - y) x_i."""
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    gradient = tl.load(address, mask=has_class, other=0).to(COMPUTE)
    gradient *= tl.load(cell, mask=has_class, other=0)
    exponent = tl.load(cell + cells, mask=has_class, other=0)
    single = tl.load(cell + 2 * cells, mask=has_class, other=0) == 1
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, row, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, row, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
        x_gradient = _gradient_of_tile(raw, gradient, exponent, single, FROM_LOGITS)
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
