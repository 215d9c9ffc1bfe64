"""The maximum over frames in Triton: what the kernels of padded and of packed bags share.

The state of a part of a bag is (value, index) of its largest frame, and with the mean (total, lost,
low, count): the sum of its frames, what its additions lost, the smallest, and how many there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import block_walk, formula, lanes, moments, sums

NOTHING = tl.constexpr(-1)

#: More than any index of a frame.
BEYOND = tl.constexpr(2**62)


@triton.jit
def first_larger(value, index, value_b, index_b):
    """The larger of two maxima, the first of equals; NaN is larger than any number. An index of -1
    marks the maximum of nothing."""
    larger = (value_b > value) | ((value_b != value_b) & (value == value))
    take = (index_b >= 0) & ((index < 0) | larger)
    return tl.where(take, value_b, value), tl.where(take, index_b, index)


@triton.jit
def largest(
    values, index, real, AXIS: tl.constexpr, LIMIT: tl.constexpr, ALL_REAL: tl.constexpr = False
):
    """The largest of the real values along AXIS and its index, the smallest of equals' and below
    LIMIT; NaN is larger than any number."""
    is_nan = values != values
    key = tl.where(is_nan, float("inf"), values)
    if not ALL_REAL:
        key = tl.where(real, key, -float("inf"))
        is_nan = real & is_nan
    peak = tl.max(key, AXIS)
    any_nan = tl.max(is_nan.to(tl.int32), AXIS) != 0
    candidate = key == tl.expand_dims(peak, AXIS)
    if not ALL_REAL:
        candidate = real & candidate
    candidate = tl.where(tl.expand_dims(any_nan, AXIS), is_nan, candidate)
    first = tl.min(tl.where(candidate, index, LIMIT), AXIS)
    return tl.where(any_nan, float("nan"), peak), tl.where(first < LIMIT, first, NOTHING)


@triton.jit
def _with_block(
    state,
    raw,
    real,
    frame_start,
    ALL_REAL: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each lane's state with its frames of one more block."""
    value, index, total, lost, low, count = state
    position = lanes.folded_frames(BLOCK)
    here, first = largest(raw, position, real, 0, BLOCK.step, ALL_REAL)
    here_index = tl.where(first < 0, NOTHING, tl.cast(frame_start, tl.int64) + first)
    value, index = first_larger(value, index, here, here_index)
    if PLUS_MEAN:
        x, _ = formula.probability(raw, FROM_LOGITS)
        here_low, _ = moments.bounds(x, real, 0, ALL_REAL)
        low = tl.minimum(low, here_low)
        if ALL_REAL:
            count += raw.shape[0]
        else:
            x = tl.where(real, x, 0.0)
            count += tl.sum(tl.where(real, 1, 0), 0)
        total, lost = sums.add(total, lost, tl.sum(x, 0))
    return value, index, total, lost, low, count


@triton.jit
def _with_frames(
    state,
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    x, mask, place = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    raw = lanes.folded(lanes.read(x, place, frame_start, inside, BLOCK), BLOCK)
    real = lanes.folded(real, BLOCK)
    all_real: tl.constexpr = WHOLE and not MASKED
    return _with_block(state, raw, real, frame_start, all_real, FROM_LOGITS, PLUS_MEAN, BLOCK)


@triton.jit
def largest_of_frames(
    x,
    mask,
    place,
    first,
    last,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Maximum, its frame and the mean's state of some frames of a bag's block of classes."""
    zeros = lanes.zeros(BLOCK)
    count = zeros.to(tl.int32)
    state = (zeros, count.to(tl.int64) + NOTHING, zeros, zeros, zeros + float("inf"), count)
    given = (x, mask, place)
    state = block_walk.gather(
        state, given, first, last, _with_frames, PLUS_MEAN, FROM_LOGITS, MASKED, BLOCK
    )
    values, index, totals, losses, lows, counts = state
    value, index = largest(values, index, index >= 0, 1, BEYOND)
    mean = (tl.sum(totals, 1), tl.sum(losses, 1), tl.min(lows, 1), tl.sum(counts, 1))
    return value, index, mean


@triton.jit
def store_part(value, index, mean, part, places, row_stride, inside, PLUS_MEAN: tl.constexpr):
    tl.store(part, value, mask=inside)
    tl.store(places, index, mask=inside)
    if PLUS_MEAN:
        total, lost, low, count = mean
        tl.store(part + row_stride, total, mask=inside)
        tl.store(part + 2 * row_stride, lost, mask=inside)
        tl.store(part + 3 * row_stride, low, mask=inside)
        tl.store(places + row_stride, count.to(tl.int64), mask=inside)


@triton.jit
def join_part(value, index, mean, part, places, row_stride, inside, PLUS_MEAN: tl.constexpr):
    """A maximum and the mean's state, with a part that was stored."""
    total, lost, low, count = mean
    there = tl.load(part, mask=inside, other=0)
    there_index = tl.load(places, mask=inside, other=NOTHING)
    value, index = first_larger(value, index, there, there_index)
    if PLUS_MEAN:
        total, lost = sums.add(total, lost, tl.load(part + row_stride, mask=inside, other=0))
        lost += tl.load(part + 2 * row_stride, mask=inside, other=0)
        low = tl.minimum(low, tl.load(part + 3 * row_stride, mask=inside, other=0))
        count += tl.load(places + row_stride, mask=inside, other=0)
    return value, index, (total, lost, low, count)


@triton.jit
def finish(
    value,
    index,
    mean,
    y_ptr,
    places_ptr,
    cell,
    cells,
    inside,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
):
    y, _ = formula.probability(value, FROM_LOGITS)
    if PLUS_MEAN:
        total, lost, low, count = mean
        average = (total + lost) / tl.where(count == 0, 1, count).to(total.dtype)
        average = tl.where(average < low, low, average)
        y += tl.where(average > y, y, average)
        tl.store(places_ptr + cells + cell, count.to(tl.int64), mask=inside)
    tl.store(y_ptr + cell, tl.where(index < 0, 0.0, y), mask=inside)
    tl.store(places_ptr + cell, index, mask=inside)


@triton.jit
def _write_block(
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    known, x, mask, x_gradient, place = given
    peak, gradient, share = known
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    # A peak beyond the block, however far, is at none of its frames.
    ahead = tl.minimum(tl.maximum(peak - frame_start, NOTHING), BLOCK.step).to(tl.int32)
    to_x = tl.where(lanes.in_frame(BLOCK) == ahead, gradient, 0.0)
    if PLUS_MEAN:
        to_x += share
        if FROM_LOGITS:
            raw = lanes.read(x, place, frame_start, inside, BLOCK)
            probability, complement = formula.probability(raw, True)
            to_x *= probability * complement
        if MASKED:
            to_x = tl.where(real, to_x, 0.0)
    lanes.write(x_gradient, place, frame_start, to_x, inside, BLOCK)


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
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of some frames, from what is `known` of the bag: the maximum's frame, its
    gradient, and what the mean gives every frame."""
    index, gradient, share = known
    known = (lanes.per_class(index), lanes.per_class(gradient), lanes.per_class(share))
    given = (known, x, mask, x_gradient, place)
    block_walk.write(given, first, last, _write_block, PLUS_MEAN, FROM_LOGITS, MASKED, BLOCK)


@triton.jit
def gradients_of_frames(
    gradient,
    x,
    mask,
    places_ptr,
    x_gradient,
    bags,
    bag,
    place,
    first,
    last,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write each of some frames of a bag once; the place says where they are in the frame tensors.
    Of x it reads, for the sigmoid's derivative, all frames if the mean is added, or the maxima."""
    row, class_start, classes = place
    gradient_ptr, gradient_strides = gradient
    bag = tl.cast(bag, tl.int64)
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    places = places_ptr + bag * classes + class_index
    index = tl.load(places, mask=has_class, other=NOTHING)
    stride_bag, stride_class = gradient_strides
    gradient_cell = gradient_ptr + bag * stride_bag + class_index * stride_class
    of_peak = tl.load(gradient_cell, mask=has_class, other=0).to(BLOCK.compute)
    share = tl.zeros_like(of_peak)
    if PLUS_MEAN:
        cells = tl.cast(bags, tl.int64) * classes
        count = tl.load(places + cells, mask=has_class, other=1)
        share = of_peak / tl.where(count == 0, 1, count).to(BLOCK.compute)
    elif FROM_LOGITS:
        x_ptr, x_strides = x
        stride_bag, stride_class, stride_frame = x_strides
        peak_cell = (
            x_ptr + tl.cast(row, tl.int64) * stride_bag + class_index.to(tl.int64) * stride_class
        )
        here = has_class & (index >= first) & (index < last)
        raw = tl.load(peak_cell + index * stride_frame, mask=here, other=0).to(BLOCK.compute)
        probability, complement = formula.probability(raw, True)
        of_peak *= probability * complement
    write_gradients(
        (index, of_peak, share),
        x,
        mask,
        x_gradient,
        place,
        first,
        last,
        FROM_LOGITS,
        PLUS_MEAN,
        MASKED,
        BLOCK,
    )
