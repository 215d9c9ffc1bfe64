"""The maximum over frames in Triton: its forward and its backward kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import formula, tiles
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
def _finish(value, index, y_ptr, index_ptr, cell, inside, FROM_LOGITS: tl.constexpr):
    x, _ = formula.probability(value, FROM_LOGITS)
    tl.store(y_ptr + cell, tl.where(index < 0, 0.0, x), mask=inside)
    tl.store(index_ptr + cell, index, mask=inside)


@triton.jit
def _maximum_forward_kernel(
    x_ptr,
    mask_ptr,
    y_ptr,
    index_ptr,
    partial_value_ptr,
    partial_index_ptr,
    bags,
    classes,
    frames,
    segment_frames,
    x_strides,
    mask_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    program = tl.program_id(0)
    class_start = program % class_blocks * BLOCK_CLASSES
    bag = program // class_blocks % bags
    segment = program // class_blocks // bags
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    value = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    index = tl.full((BLOCK_CLASSES,), _NOTHING, tl.int64)
    first = segment * segment_frames
    last = tl.minimum(first + segment_frames, frames)
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
    cell = tl.cast(bag, tl.int64) * classes + class_index
    if SEGMENTED:
        part = segment * tl.cast(bags, tl.int64) * classes + cell
        tl.store(partial_value_ptr + part, value, mask=has_class)
        tl.store(partial_index_ptr + part, index, mask=has_class)
    else:
        _finish(value, index, y_ptr, index_ptr, cell, has_class, FROM_LOGITS)


@triton.jit
def _maximum_merge_kernel(
    y_ptr,
    index_ptr,
    partial_value_ptr,
    partial_index_ptr,
    cells,
    segments,
    FROM_LOGITS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    value = tl.load(partial_value_ptr + cell, mask=inside, other=0)
    index = tl.load(partial_index_ptr + cell, mask=inside, other=_NOTHING)
    for segment in range(1, segments):
        part = tl.cast(segment, tl.int64) * cells + cell
        there = tl.load(partial_value_ptr + part, mask=inside, other=0)
        there_index = tl.load(partial_index_ptr + part, mask=inside, other=_NOTHING)
        value, index = _first_larger(value, index, there, there_index)
    _finish(value, index, y_ptr, index_ptr, cell, inside, FROM_LOGITS)


@triton.jit
def _maximum_backward_kernel(
    gradient_ptr,
    x_ptr,
    index_ptr,
    x_gradient_ptr,
    bags,
    classes,
    frames,
    walk_frames,
    gradient_strides,
    x_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Writes each frame once; reads of x only the maxima, for the sigmoid's derivative."""
    walks = tl.cdiv(frames, walk_frames)
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    program = tl.program_id(0)
    first = program % walks * walk_frames
    last = tl.minimum(first + walk_frames, frames)
    class_start = program // walks % class_blocks * BLOCK_CLASSES
    bag = tl.cast(program // walks // class_blocks, tl.int64)
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    index = tl.load(index_ptr + bag * classes + class_index, mask=has_class, other=_NOTHING)
    stride_bag, stride_class = gradient_strides
    gradient_cell = gradient_ptr + bag * stride_bag + class_index * stride_class
    gradient = tl.load(gradient_cell, mask=has_class, other=0).to(COMPUTE)
    if FROM_LOGITS:
        stride_bag, stride_class, stride_frame = x_strides
        peak_cell = x_ptr + bag * stride_bag + class_index.to(tl.int64) * stride_class
        here = has_class & (index >= first) & (index < last)
        raw = tl.load(peak_cell + index * stride_frame, mask=here, other=0).to(COMPUTE)
        x, complement = formula.probability(raw, True)
        gradient *= x * complement
    for frame_start in range(first, last, BLOCK_FRAMES):
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        x_gradient = tl.where(index[:, None] == frame[None, :], gradient[:, None], 0.0)
        x_gradient_tile = tiles.pointers(
            x_gradient_ptr,
            bag,
            class_start,
            frame_start,
            x_gradient_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        inside = has_class[:, None] & (frame < last)[None, :]
        tl.store(x_gradient_tile, x_gradient, mask=inside)


def forward(
    x: Tensor, mask: Tensor | None, from_logits: bool
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass over x (bags, classes, frames), and their outputs: y and the index
    of each maximum (bags, classes), -1 for a bag without a real frame."""
    bags, classes, _ = x.shape
    tiling = tiles.tile(x, mask is not None)
    segments = tiling.segments
    y = x.new_empty((bags, classes))
    index = x.new_empty((bags, classes), dtype=torch.int64)
    parts: dict[str, Tensor] = {"partial_value_ptr": y, "partial_index_ptr": index}
    if segments > 1:
        shape = (segments, bags, classes)
        parts["partial_value_ptr"] = x.new_empty(shape, dtype=tiles.arithmetic_dtype(x))
        parts["partial_index_ptr"] = x.new_empty(shape, dtype=torch.int64)
    walk = Launch(
        _maximum_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            "x_ptr": x,
            "mask_ptr": x if mask is None else mask.view(torch.uint8),
            "y_ptr": y,
            "index_ptr": index,
            **parts,
            **_shape(x),
            "segment_frames": tiling.segment_frames,
            "mask_strides": (0, 0) if mask is None else mask.stride(),
            "FROM_LOGITS": from_logits,
            "MASKED": mask is not None,
            "SEGMENTED": segments > 1,
            **tiling.constants(x),
        },
    )
    if segments == 1:
        return [walk], (y, index)
    cells = bags * classes
    merge = Launch(
        _maximum_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {
            "y_ptr": y,
            "index_ptr": index,
            **parts,
            "cells": cells,
            "segments": segments,
            "FROM_LOGITS": from_logits,
            "BLOCK_CELLS": _MERGE_CELLS,
        },
    )
    return [walk, merge], (y, index)


def backward(
    gradient: Tensor, x: Tensor, index: Tensor, from_logits: bool, x_gradient: Tensor
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradient of x."""
    tiling = tiles.tile(x)
    walk = Launch(
        _maximum_backward_kernel,
        tiling.bags * tiling.class_blocks * tiling.walks,
        {
            "gradient_ptr": gradient,
            "index_ptr": index,
            "x_gradient_ptr": x_gradient,
            "x_ptr": x,
            **_shape(x),
            "walk_frames": tiles.WALK_FRAMES,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            **tiling.constants(x, x_gradient),
        },
    )
    return [walk]


def _shape(x: Tensor) -> dict[str, Any]:
    bags, classes, frames = x.shape
    return {"bags": bags, "classes": classes, "frames": frames, "x_strides": x.stride()}
