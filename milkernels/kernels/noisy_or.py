"""Noisy-or in Triton: y = 1 - Π (1 - x_i), forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import jit, lanes, tiles
from milkernels.kernels import noisy_or_frames as walks
from milkernels.kernels.launch import Launch

#: Rows of the statistics: the product's factor, 0 where several frames are 1, its power of two, and
#: how many frames are 1.
STATISTICS_ROWS = 3
PARTIAL_ROWS = tl.constexpr(4)
_MERGE_CELLS = 128


@jit.kernel
def _noisy_or_forward_kernel(
    x_ptr,
    mask_ptr,
    y_ptr,
    statistics_ptr,
    partial_ptr,
    bags,
    classes,
    frames,
    segment_frames,
    x_strides,
    mask_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK.classes
    )
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    high, low, exponent, ones = walks.product_of_frames(
        (x_ptr, x_strides),
        (mask_ptr, mask_strides),
        (bag, class_start, classes),
        first,
        last,
        FROM_LOGITS,
        MASKED,
        BLOCK,
    )
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * cells * PARTIAL_ROWS + cell
        walks.store_part(high, low, exponent, ones, part, cells, has_class)
    else:
        walks.finish(high, low, exponent, ones, y_ptr, statistics_ptr, cell, cells, has_class)


@jit.kernel
def _noisy_or_merge_kernel(
    y_ptr, statistics_ptr, partial_ptr, cells, segments, BLOCK_CELLS: tl.constexpr
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row_stride = tl.cast(cells, tl.int64)
    part = partial_ptr + cell
    state = walks.load_part(part, row_stride, inside)
    for segment in range(1, segments):
        there = walks.load_part(part + segment * row_stride * PARTIAL_ROWS, row_stride, inside)
        state = walks.merge(state, there)
    high, low, exponent, ones = state
    walks.finish(high, low, exponent, ones, y_ptr, statistics_ptr, cell, row_stride, inside)


@jit.kernel
def _noisy_or_backward_kernel(
    gradient_ptr,
    x_ptr,
    mask_ptr,
    statistics_ptr,
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
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program writes some frames of one bag's block of classes."""
    bag, class_start, first, last = tiles.backward_walk(
        tl.program_id(0), classes, frames, walk_frames, BLOCK.classes
    )
    walks.gradients_of_frames(
        (gradient_ptr, gradient_strides),
        (x_ptr, x_strides),
        (mask_ptr, mask_strides),
        statistics_ptr,
        (x_gradient_ptr, x_gradient_strides),
        bags,
        bag,
        (bag, class_start, classes),
        first,
        last,
        FROM_LOGITS,
        MASKED,
        BLOCK,
    )


def forward(
    x: Tensor, mask: Tensor | None, from_logits: bool
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass over x (bags, classes, frames), and their outputs: y (bags,
    classes) and the statistics."""
    bags, classes, _ = x.shape
    tiling = lanes.of(x, thread_bytes=lanes.JOINED_BYTES)
    segments = tiling.segments
    compute = tiles.arithmetic_dtype(x)
    y = x.new_empty((bags, classes))
    statistics = x.new_empty((STATISTICS_ROWS, bags, classes), dtype=compute)
    partial = statistics
    if segments > 1:
        partial = x.new_empty((segments, PARTIAL_ROWS.value, bags, classes), dtype=compute)
    outputs = {"y_ptr": y, "statistics_ptr": statistics, "partial_ptr": partial}
    walk = Launch(
        _noisy_or_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **tiles.inputs(x, mask),
            **outputs,
            "segment_frames": tiling.segment_frames,
            "FROM_LOGITS": from_logits,
            "SEGMENTED": segments > 1,
            **tiling.constants(x, mask),
        },
    )
    if segments == 1:
        return [walk], (y, statistics)
    cells = bags * classes
    merge = Launch(
        _noisy_or_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {**outputs, "cells": cells, "segments": segments, "BLOCK_CELLS": _MERGE_CELLS},
    )
    return [walk, merge], (y, statistics)


def backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    from_logits: bool,
    x_gradient: Tensor,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradient of x."""
    tiling = lanes.of(x, x_gradient)
    walk = Launch(
        _noisy_or_backward_kernel,
        tiling.bags * tiling.class_blocks * tiling.walks,
        {
            **tiles.inputs(x, mask),
            "gradient_ptr": gradient,
            "statistics_ptr": statistics,
            "x_gradient_ptr": x_gradient,
            "walk_frames": tiling.walk_frames,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            **tiling.constants(x, mask, x_gradient),
        },
    )
    return [walk]
