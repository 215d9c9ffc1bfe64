"""The maximum over frames in Triton, alone or plus their mean, forward and backward.

The state of a part of a bag is (value, index) of its largest frame, and with the mean (total, lost,
low, count): the sum of its frames, what its additions lost, the smallest, and how many there are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import formula, sums, tiles
from milkernels.kernels.launch import Launch

_NOTHING = tl.constexpr(-1)
_MERGE_CELLS = 128


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
    return value, tl.where(found, tl.cast(frame_start, tl.int64) + first, _NOTHING)


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
    index = tl.full((BLOCK_CLASSES,), _NOTHING, tl.int64)
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
    there_index = tl.load(places, mask=inside, other=_NOTHING)
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
def _maximum_forward_kernel(
    x_ptr,
    mask_ptr,
    y_ptr,
    places_ptr,
    partial_ptr,
    partial_places_ptr,
    bags,
    classes,
    frames,
    segment_frames,
    x_strides,
    mask_strides,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    MASKED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK_CLASSES
    )
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    value, index, mean = largest_of_frames(
        x_ptr,
        mask_ptr,
        bag,
        class_start,
        has_class,
        first,
        last,
        x_strides,
        mask_strides,
        FROM_LOGITS,
        PLUS_MEAN,
        MASKED,
        WIDE,
        COMPUTE,
        BLOCK_CLASSES,
        BLOCK_FRAMES,
    )
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * cells * (4 if PLUS_MEAN else 1) + cell
        places = partial_places_ptr + segment * cells * (2 if PLUS_MEAN else 1) + cell
        store_part(value, index, mean, part, places, cells, has_class, PLUS_MEAN)
    else:
        finish(
            value,
            index,
            mean,
            y_ptr,
            places_ptr,
            cell,
            cells,
            has_class,
            FROM_LOGITS,
            PLUS_MEAN,
        )


@triton.jit
def _maximum_merge_kernel(
    y_ptr,
    places_ptr,
    partial_ptr,
    partial_places_ptr,
    cells,
    segments,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row_stride = tl.cast(cells, tl.int64)
    value = tl.zeros((BLOCK_CELLS,), COMPUTE)
    index = tl.full((BLOCK_CELLS,), _NOTHING, tl.int64)
    mean = (value, value, value + float("inf"), tl.zeros((BLOCK_CELLS,), tl.int64))
    for segment in range(0, segments):
        part = partial_ptr + segment * row_stride * (4 if PLUS_MEAN else 1) + cell
        places = partial_places_ptr + segment * row_stride * (2 if PLUS_MEAN else 1) + cell
        value, index, mean = join_part(
            value, index, mean, part, places, row_stride, inside, PLUS_MEAN
        )
    finish(
        value,
        index,
        mean,
        y_ptr,
        places_ptr,
        cell,
        row_stride,
        inside,
        FROM_LOGITS,
        PLUS_MEAN,
    )


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
    index = tl.load(places, mask=has_class, other=_NOTHING)
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


@triton.jit
def _maximum_backward_kernel(
    gradient_ptr,
    x_ptr,
    mask_ptr,
    places_ptr,
    x_gradient_ptr,
    bags,
    classes,
    frames,
    walk_frames,
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
    """A program writes some frames of one bag's block of classes."""
    bag, class_start, first, last = tiles.backward_walk(classes, frames, walk_frames, BLOCK_CLASSES)
    gradients_of_frames(
        gradient_ptr,
        x_ptr,
        mask_ptr,
        places_ptr,
        x_gradient_ptr,
        bags,
        bag,
        bag,
        classes,
        class_start,
        first,
        last,
        gradient_strides,
        x_strides,
        mask_strides,
        x_gradient_strides,
        FROM_LOGITS,
        PLUS_MEAN,
        MASKED,
        WIDE,
        COMPUTE,
        BLOCK_CLASSES,
        BLOCK_FRAMES,
    )


def forward(
    x: Tensor, mask: Tensor | None, from_logits: bool, plus_mean: bool
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass over x (bags, classes, frames), and their outputs: y (bags,
    classes) and the places (1 or 2, bags, classes): each maximum's frame, -1 for a bag without a
    real frame; then, with `plus_mean`, how many are real."""
    bags, classes, _ = x.shape
    tiling = tiles.tile(x, mask is not None)
    segments = tiling.segments
    y = x.new_empty((bags, classes))
    places = x.new_empty((1 + plus_mean, bags, classes), dtype=torch.int64)
    parts: dict[str, Tensor] = {"partial_ptr": y, "partial_places_ptr": places}
    if segments > 1:
        values = (segments, 4 if plus_mean else 1, bags, classes)
        parts["partial_ptr"] = x.new_empty(values, dtype=tiles.arithmetic_dtype(x))
        parts["partial_places_ptr"] = x.new_empty((segments, *places.shape), dtype=torch.int64)
    outputs = {"y_ptr": y, "places_ptr": places, **parts}
    flags = {"FROM_LOGITS": from_logits, "PLUS_MEAN": plus_mean}
    constants = tiling.constants(x)
    walk = Launch(
        _maximum_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **tiles.inputs(x, mask),
            **outputs,
            **flags,
            "segment_frames": tiling.segment_frames,
            "SEGMENTED": segments > 1,
            **constants,
        },
    )
    if segments == 1:
        return [walk], (y, places)
    cells = bags * classes
    merge = Launch(
        _maximum_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {
            **outputs,
            **flags,
            "cells": cells,
            "segments": segments,
            "COMPUTE": constants["COMPUTE"],
            "BLOCK_CELLS": _MERGE_CELLS,
        },
    )
    return [walk, merge], (y, places)


def backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    places: Tensor,
    from_logits: bool,
    plus_mean: bool,
    x_gradient: Tensor,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradient of x."""
    # The maximum alone lies on no masked frame.
    mask = mask if plus_mean else None
    tiling = tiles.tile(x, mask is not None)
    walk = Launch(
        _maximum_backward_kernel,
        tiling.bags * tiling.class_blocks * tiling.walks,
        {
            **tiles.inputs(x, mask),
            "gradient_ptr": gradient,
            "places_ptr": places,
            "x_gradient_ptr": x_gradient,
            "walk_frames": tiles.WALK_FRAMES,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            "PLUS_MEAN": plus_mean,
            **tiling.constants(x, x_gradient),
        },
    )
    return [walk]
