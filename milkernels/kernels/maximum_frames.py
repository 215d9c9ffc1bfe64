"""The maximum over frames in Triton: what the kernels of padded and of packed bags share.

The state of a part of a bag is (value, index) of its largest frame, and with the mean (total, lost,
low, count): the sum of its frames, what its additions lost, the smallest, and how many there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, sums, tiles

NOTHING = tl.constexpr(-1)


@triton.jit
def _first_larger(value, index, value_b, index_b):
    """The larger of two maxima, the first of equals; NaN is larger than any number. An index of -1
    marks the maximum of nothing."""
    larger = (value_b > value) | ((value_b != value_b) & (value == value))
    take = (index_b >= 0) & ((index < 0) | larger)
    return tl.where(take, value_b, value), tl.where(take, index_b, index)


@triton.jit
def _of_tile(raw, real, frame_start, BLOCK_FRAMES: tl.constexpr):
    """Maximum of a (classes, frames) tile and its frame."""
    key = tl.where(raw != raw, float("inf"), raw)
    key = tl.where(real, key, -float("inf"))
    position = tl.arange(0, BLOCK_FRAMES)[None, :]
    peak = tl.max(key, 1)
    is_nan = real & (raw != raw)
    any_nan = tl.max(is_nan.to(tl.int32), 1) != 0
    candidate = tl.where(any_nan[:, None], is_nan, real & (key == peak[:, None]))
    first = tl.min(tl.where(candidate, position, BLOCK_FRAMES), 1)
    value = tl.where(any_nan, float("nan"), peak)
    found = first < BLOCK_FRAMES
    return value, tl.where(found, tl.cast(frame_start, tl.int64) + first, NOTHING)


@triton.jit
def _sums_of_tile(mean, raw, real, FROM_LOGITS: tl.constexpr):
    """The mean's state with a tile's frames added."""
    total, lost, low, count = mean
    x, _ = formula.probability(raw, FROM_LOGITS)
    total, lost = sums.add(total, lost, tl.sum(tl.where(real, x, 0.0), 1))
    low = tl.minimum(low, tl.min(tl.where(real, x, float("inf")), 1))
    return total, lost, low, count + tl.sum(real.to(tl.int32), 1)


@triton.jit
def largest_of_frames(
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
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Maximum, its frame and the mean's state of some frames of a bag's block of classes."""
    value = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    index = tl.full((BLOCK_CLASSES,), NOTHING, tl.int64)
    mean = (value, value, value + float("inf"), tl.zeros((BLOCK_CLASSES,), tl.int32))
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
        here, here_index = _of_tile(raw, real, frame_start, BLOCK_FRAMES)
        value, index = _first_larger(value, index, here, here_index)
        if PLUS_MEAN:
            mean = _sums_of_tile(mean, raw, real, FROM_LOGITS)
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
    value, index = _first_larger(value, index, there, there_index)
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
def gradients_of_frames(
    gradient_ptr,
    x_ptr,
    mask_ptr,
    places_ptr,
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
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Write each of some frames of a bag once; they are in `row` of the frame tensors. Of x it
    reads, for the sigmoid's derivative, all frames if the mean is added, else the maxima."""
    bag = tl.cast(bag, tl.int64)
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    places = places_ptr + bag * classes + class_index
    index = tl.load(places, mask=has_class, other=NOTHING)
    stride_bag, stride_class = gradient_strides
    gradient_cell = gradient_ptr + bag * stride_bag + class_index * stride_class
    gradient = tl.load(gradient_cell, mask=has_class, other=0).to(COMPUTE)
    share = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    if PLUS_MEAN:
        cells = tl.cast(bags, tl.int64) * classes
        count = tl.load(places + cells, mask=has_class, other=1)
        share = gradient / tl.where(count == 0, 1, count).to(COMPUTE)
    elif FROM_LOGITS:
        stride_bag, stride_class, stride_frame = x_strides
        peak_cell = (
            x_ptr + tl.cast(row, tl.int64) * stride_bag + class_index.to(tl.int64) * stride_class
        )
        here = has_class & (index >= first) & (index < last)
        raw = tl.load(peak_cell + index * stride_frame, mask=here, other=0).to(COMPUTE)
        x, complement = formula.probability(raw, True)
        gradient *= x * complement
    for frame_start in range(first, last, BLOCK_FRAMES):
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        is_peak = index[:, None] == frame[None, :]
        inside = has_class[:, None] & (frame < last)[None, :]
        x_gradient = tl.where(is_peak, gradient[:, None], 0.0)
        if PLUS_MEAN:
            inside, real = tiles.inside_and_real(
                has_class, frame_start, last, mask_ptr, row, mask_strides, BLOCK_FRAMES, MASKED
            )
            x_gradient += share[:, None]
            if FROM_LOGITS:
                x_tile = tiles.pointers(
                    x_ptr,
                    row,
                    class_start,
                    frame_start,
                    x_strides,
                    BLOCK_CLASSES,
                    BLOCK_FRAMES,
                    WIDE,
                )
                raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
                x, complement = formula.probability(raw, True)
                x_gradient *= x * complement
            x_gradient = tl.where(real, x_gradient, 0.0)
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
        tl.store(x_gradient_tile, x_gradient, mask=inside)
