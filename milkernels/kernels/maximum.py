"""The maximum over frames in Triton, alone or plus their mean, forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import jit, lanes, tiles
from milkernels.kernels import maximum_frames as walks
from milkernels.kernels.launch import Launch

_MERGE_CELLS = 128


@jit.kernel
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
    BLOCK: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK.classes
    )
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    value, index, mean = walks.largest_of_frames(
        (x_ptr, x_strides),
        (mask_ptr, mask_strides),
        (bag, class_start, classes),
        first,
        last,
        FROM_LOGITS,
        PLUS_MEAN,
        MASKED,
        BLOCK,
    )
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * cells * (4 if PLUS_MEAN else 1) + cell
        places = partial_places_ptr + segment * cells * (2 if PLUS_MEAN else 1) + cell
        walks.store_part(value, index, mean, part, places, cells, has_class, PLUS_MEAN)
    else:
        walks.finish(
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


@jit.kernel
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
    index = tl.full((BLOCK_CELLS,), walks.NOTHING, tl.int64)
    mean = (value, value, value + float("inf"), tl.zeros((BLOCK_CELLS,), tl.int64))
    for segment in range(0, segments):
        part = partial_ptr + segment * row_stride * (4 if PLUS_MEAN else 1) + cell
        places = partial_places_ptr + segment * row_stride * (2 if PLUS_MEAN else 1) + cell
        value, index, mean = walks.join_part(
            value, index, mean, part, places, row_stride, inside, PLUS_MEAN
        )
    walks.finish(
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


@jit.kernel
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
        places_ptr,
        (x_gradient_ptr, x_gradient_strides),
        bags,
        bag,
        (bag, class_start, classes),
        first,
        last,
        FROM_LOGITS,
        PLUS_MEAN,
        MASKED,
        BLOCK,
    )


def forward(
    x: Tensor, mask: Tensor | None, from_logits: bool, plus_mean: bool
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass over x (bags, classes, frames), and their outputs: y (bags,
    classes) and the places (1 or 2, bags, classes): each maximum's frame, -1 for a bag without a
    real frame; then, with `plus_mean`, how many are real."""
    bags, classes, _ = x.shape
    tiling = lanes.of(x, thread_bytes=lanes.JOINED_BYTES)
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
    walk = Launch(
        _maximum_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **tiles.inputs(x, mask),
            **outputs,
            **flags,
            "segment_frames": tiling.segment_frames,
            "SEGMENTED": segments > 1,
            **tiling.constants(x, mask),
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
            "COMPUTE": tiles.compute_dtype(x),
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
    tiling = lanes.of(x, x_gradient)
    walk = Launch(
        _maximum_backward_kernel,
        tiling.bags * tiling.class_blocks * tiling.walks,
        {
            **tiles.inputs(x, mask),
            "gradient_ptr": gradient,
            "places_ptr": places,
            "x_gradient_ptr": x_gradient,
            "walk_frames": tiling.walk_frames,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            "PLUS_MEAN": plus_mean,
            **tiling.constants(x, mask, x_gradient),
        },
    )
    return [walk]
