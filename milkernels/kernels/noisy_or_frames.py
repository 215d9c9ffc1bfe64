"""Noisy-or in Triton: what the kernels of padded and of packed bags share.

The product is kept as (high + low) · 2^exponent with high in [1, 2) or (-2, -1]: `low` holds what
each multiplication and each 1 - x loses, so that y is exact for small frames and many of them, and
nothing underflows. Frames that are 1 are left out of it and counted.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import block_walk, formula, lanes

#: Whether a product and a sum are rounded once, which Triton's interpreter does not do.
FUSES = tl.constexpr(not triton.knobs.runtime.interpret)

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
def _lost(x, y, product):
    """What a product rounds off."""
    if FUSES:
        return tl.fma(x, y, -product)
    else:
        upper, upper_b = _upper_half(x), _upper_half(y)
        lower, lower_b = x - upper, y - upper_b
        # In this order every sum is exact (Dekker).
        return ((upper * upper_b - product) + upper * lower_b) + lower * upper_b + lower * lower_b


@triton.jit
def _multiply(high, low, exponent, high_b, low_b, exponent_b):
    """The product of two products, not normalised: a few of them neither overflow nor underflow."""
    product = high * high_b
    low = tl.fma(high, low_b, tl.fma(low, high_b, _lost(high, high_b, product)))
    return product, low, exponent + exponent_b


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
        larger = formula.quotient(1 + zero, 1 + decay)
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
    """Even and odd places along the last axis."""
    if len(tile.shape) == 3:
        tile = tl.reshape(tile, (tile.shape[0], tile.shape[1], tile.shape[2] // 2, 2))
    else:
        tile = tl.reshape(tile, (tile.shape[0], tile.shape[1] // 2, 2))
    return tl.split(tile)


@triton.jit
def _over_last(high, low, exponent, LEVELS: tl.constexpr):
    """The product along the last axis, 2^LEVELS long, pair by pair."""
    for level in tl.static_range(LEVELS):
        high, high_b = _halves(high)
        low, low_b = _halves(low)
        exponent, exponent_b = _halves(exponent)
        high, low, exponent = _multiply(high, low, exponent, high_b, low_b, exponent_b)
        # Four factors of at least 2^-24, or 2^-53 of float64, do not underflow.
        if level % 2 == 1 or level == LEVELS - 1:
            high, low, exponent = _normalised(high, low, exponent)
    return high, low, exponent


@triton.jit
def _factors(raw, real, FROM_LOGITS: tl.constexpr, ALL_REAL: tl.constexpr):
    """1 - x of real frames as products, and which are 0 and left out."""
    high, low, exponent, is_one = _factor(raw, FROM_LOGITS)
    if not ALL_REAL:
        high = tl.where(real, high, 1.0)
        low = tl.where(real, low, 0.0)
        exponent = tl.where(real, exponent, 0.0)
        is_one = real & is_one
    return high, low, exponent, is_one


@triton.jit
def empty(BLOCK: tl.constexpr):
    """The lanes' products before any frame."""
    zeros = lanes.zeros(BLOCK)
    return zeros + 1, zeros, zeros, zeros


@triton.jit
def with_block(
    state, raw, real, ALL_REAL: tl.constexpr, FROM_LOGITS: tl.constexpr, BLOCK: tl.constexpr
):
    """The lanes' products with one more block, and how many frames are 1."""
    high, low, exponent, ones = state
    raw = lanes.folded(raw, BLOCK)
    real = lanes.folded(real, BLOCK)
    factor, lost, apart, is_one = _factors(raw, real, FROM_LOGITS, ALL_REAL)
    # Frames of logits are never left out.
    if not FROM_LOGITS:
        ones += tl.sum(tl.where(is_one, 1.0, 0.0), 0).to(ones.dtype)
    factor, lost, apart = _over_last(
        tl.permute(factor, (1, 2, 0)),
        tl.permute(lost, (1, 2, 0)),
        tl.permute(apart, (1, 2, 0)),
        BLOCK.folded_levels,
    )
    classes: tl.constexpr = BLOCK.classes
    places: tl.constexpr = BLOCK.lanes
    factor, lost = tl.reshape(factor, (classes, places)), tl.reshape(lost, (classes, places))
    apart = tl.reshape(apart, (classes, places))
    high, low, exponent = _multiply(high, low, exponent, factor, lost, apart)
    high, low, exponent = _normalised(high, low, exponent)
    return high, low, exponent, ones


@triton.jit
def _fewer(high, low, exponent):
    """The product of up to eight lanes of each class, and the next eight: threads share those."""
    classes: tl.constexpr = high.shape[0]
    lanes_of_class: tl.constexpr = high.shape[1]
    levels: tl.constexpr = 3 if lanes_of_class >= 8 else lanes_of_class // 2
    some: tl.constexpr = 2**levels
    left: tl.constexpr = lanes_of_class // some
    high = tl.reshape(high, (classes, left, some))
    low = tl.reshape(low, (classes, left, some))
    exponent = tl.reshape(exponent, (classes, left, some))
    high, low, exponent = _over_last(high, low, exponent, levels)
    high, low = tl.reshape(high, (classes, left)), tl.reshape(low, (classes, left))
    return high, low, tl.reshape(exponent, (classes, left))


@triton.jit
def joined(state, BLOCK: tl.constexpr):
    """The product of all lanes of each class."""
    high, low, exponent, ones = state
    joins: tl.constexpr = BLOCK.joins
    for _ in tl.static_range(joins):
        high, low, exponent = _fewer(high, low, exponent)
    classes: tl.constexpr = BLOCK.classes
    high, low = tl.reshape(high, (classes,)), tl.reshape(low, (classes,))
    return high, low, tl.reshape(exponent, (classes,)), tl.sum(ones, 1)


@triton.jit
def _with_frames(
    state,
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    OPTION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    x, mask, place = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    raw = lanes.read(x, place, frame_start, inside, BLOCK)
    all_real: tl.constexpr = WHOLE and not MASKED
    return with_block(state, raw, real, all_real, FROM_LOGITS, BLOCK)


@triton.jit
def product_of_frames(
    x,
    mask,
    place,
    first,
    last,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Product over some frames of a bag's block of classes: lanes multiply their own frames, then
    the lanes multiply."""
    given = (x, mask, place)
    state = block_walk.gather(
        empty(BLOCK), given, first, last, _with_frames, None, FROM_LOGITS, MASKED, BLOCK
    )
    return joined(state, BLOCK)


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
    high, low, exponent = _normalised(high, low, exponent)
    return high, low, exponent, ones + ones_b


@triton.jit
def bag_value(high, low, exponent, ones):
    scale = tl.exp2(exponent)
    return tl.where(ones > 0, 1.0, (1 - high * scale) - low * scale)


@triton.jit
def survival(factor, exponent, ones):
    """1 - y, negative where a frame is 1, and the factor and exponent of a gradient. Where no frame
    is 1 the gradient will be that of -log(1 - y): 1 - y, which may underflow, is not in them."""
    larger, smaller = formula.powers_of_two(exponent)
    rest = tl.where(ones > 0, -1.0, factor * larger * smaller)
    survives = (ones == 0) & (factor >= 0)
    return rest, tl.where(survives, 1.0, factor), tl.where(survives, 0.0, exponent)


@triton.jit
def finish(high, low, exponent, ones, y_ptr, statistics_ptr, cell, cells, inside):
    """Write the bag value and the statistics."""
    tl.store(y_ptr + cell, bag_value(high, low, exponent, ones), mask=inside)
    row = statistics_ptr + cell
    tl.store(row, tl.where(ones > 1, 0.0, high + low), mask=inside)
    tl.store(row + cells, exponent, mask=inside)
    tl.store(row + 2 * cells, ones, mask=inside)


@triton.jit
def gradient_of_tile(raw, known, FROM_LOGITS: tl.constexpr):
    """A tile's gradient, from what is `known_of_bag`."""
    scaled, scale, scale_b, single = known
    if FROM_LOGITS:
        x, _ = formula.probability(raw, True)
        return scaled * x * scale * scale_b
    else:
        factor = 1 - raw
        is_one = factor == 0
        others = formula.quotient(scaled, tl.where(is_one, 1.0, factor)) * scale * scale_b
        return tl.where(is_one == single, others, 0.0)


@triton.jit
def known_of_bag(scaled, exponent, single):
    """What gradients need to know of a bag's block of classes, beside its elements: `scaled` is the
    bag value's gradient times the product's factor, and `single` says that one frame is 1."""
    scale, scale_b = formula.powers_of_two(exponent)
    return (
        lanes.per_class(scaled),
        lanes.per_class(scale),
        lanes.per_class(scale_b),
        lanes.per_class(single),
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
    in the frame tensors: g times the product without its own factor; from logits g (1 - y) x_i."""
    _, class_start, classes = place
    gradient_ptr, gradient_strides = gradient
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    scaled = tl.load(address, mask=has_class, other=0).to(BLOCK.compute)
    scaled *= tl.load(cell, mask=has_class, other=0)
    exponent = tl.load(cell + cells, mask=has_class, other=0)
    single = tl.load(cell + 2 * cells, mask=has_class, other=0) == 1
    known = known_of_bag(scaled, exponent, single)
    write_gradients(known, x, mask, x_gradient, place, first, last, FROM_LOGITS, MASKED, BLOCK)
