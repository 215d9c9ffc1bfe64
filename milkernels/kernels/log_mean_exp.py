"""Log-mean-exp in Triton, y = log(Σ exp(r x_i) / n) / r: its kernels, forward and backward, and
what they are launched with."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import jit, lanes, sums, tiles
from milkernels.kernels import log_mean_exp_frames as walks
from milkernels.kernels import log_mean_exp_sums as states
from milkernels.kernels.launch import Launch, of_classes, or_else

_MERGE_CELLS = 128

#: Of a block, for each thread: its series need the registers.
THREAD_BYTES = lanes.JOINED_BYTES // 2


@jit.kernel
def _log_mean_exp_forward_kernel(
    x_ptr,
    sharpness_ptr,
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
    LEARN: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK.classes
    )
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    sharpness = walks.sharpness_of(sharpness_ptr, class_index, has_class, BLOCK.compute)
    size, sign, inverse = sharpness
    state = walks.sums_of_frames(
        (x_ptr, x_strides),
        (mask_ptr, mask_strides),
        (bag, class_start, classes),
        first,
        last,
        sharpness,
        FROM_LOGITS,
        MASKED,
        LEARN,
        BLOCK,
    )
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * cells * states.ROWS + cell
        states.store(part, cells, state, has_class)
    else:
        walks.finish(
            state,
            size,
            sign,
            inverse,
            y_ptr,
            statistics_ptr,
            cell,
            cells,
            has_class,
            LEARN,
        )


@jit.kernel
def _log_mean_exp_merge_kernel(
    sharpness_ptr,
    y_ptr,
    statistics_ptr,
    partial_ptr,
    cells,
    classes,
    segments,
    LEARN: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row_stride = tl.cast(cells, tl.int64)
    size, sign, inverse = walks.sharpness_of(sharpness_ptr, cell % classes, inside, COMPUTE)
    state = states.load(partial_ptr + cell, row_stride, inside)
    for segment in range(1, segments):
        part = partial_ptr + segment * row_stride * states.ROWS + cell
        there = states.load(part, row_stride, inside)
        state = states.merge(state, there, size, inverse, LEARN)
    walks.finish(state, size, sign, inverse, y_ptr, statistics_ptr, cell, row_stride, inside, LEARN)


@jit.kernel
def _log_mean_exp_backward_kernel(
    gradient_ptr,
    x_ptr,
    sharpness_ptr,
    mask_ptr,
    statistics_ptr,
    x_gradient_ptr,
    sharpness_gradient_ptr,
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
    LEARN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx_i = g exp(r x_i) / Σ exp(r x_j). The first programs of the grid sum the sharpness'
    gradient."""
    cells = tl.cast(bags, tl.int64) * classes
    program = tl.program_id(0)
    first_walk = sums.first_walk(classes, LEARN)
    if program < first_walk:
        if LEARN:
            sums.over_bags(
                gradient_ptr,
                statistics_ptr + 2 * cells,
                sharpness_gradient_ptr,
                program,
                bags,
                classes,
                gradient_strides,
                BLOCK.compute,
            )
    else:
        bag, class_start, first, last = tiles.backward_walk(
            program - first_walk, classes, frames, walk_frames, BLOCK.classes
        )
        walks.gradients_of_frames(
            (gradient_ptr, gradient_strides),
            (x_ptr, x_strides),
            sharpness_ptr,
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
    x: Tensor, sharpness: Tensor, mask: Tensor | None, from_logits: bool, learn: bool
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass over x (bags, classes, frames), and their outputs: y (bags,
    classes) and the statistics. `learn` asks for dy/dr among them."""
    bags, classes, _ = x.shape
    tiling = lanes.of(x, thread_bytes=THREAD_BYTES)
    segments = tiling.segments
    compute = tiles.arithmetic_dtype(x)
    y = x.new_empty((bags, classes))
    statistics = x.new_empty((2 + learn, bags, classes), dtype=compute)
    partial = statistics
    if segments > 1:
        partial = x.new_empty((segments, states.ROWS.value, bags, classes), dtype=compute)
    outputs = {"y_ptr": y, "statistics_ptr": statistics, "partial_ptr": partial}
    walk = Launch(
        _log_mean_exp_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **tiles.inputs(x, mask),
            **outputs,
            "sharpness_ptr": of_classes(sharpness, x),
            "segment_frames": tiling.segment_frames,
            "FROM_LOGITS": from_logits,
            "LEARN": learn,
            "SEGMENTED": segments > 1,
            **tiling.constants(x, mask),
        },
        registers=255,
    )
    if segments == 1:
        return [walk], (y, statistics)
    cells = bags * classes
    merge = Launch(
        _log_mean_exp_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {
            **outputs,
            "sharpness_ptr": of_classes(sharpness, x),
            "cells": cells,
            "classes": classes,
            "segments": segments,
            "LEARN": learn,
            "COMPUTE": tiles.compute_dtype(x),
            "BLOCK_CELLS": _MERGE_CELLS,
        },
    )
    return [walk, merge], (y, statistics)


def backward(
    gradient: Tensor,
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    from_logits: bool,
    x_gradient: Tensor,
    sharpness_gradient: Tensor | None,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradients that are given."""
    tiling = lanes.of(x, x_gradient)
    learn = sharpness_gradient is not None
    walk = Launch(
        _log_mean_exp_backward_kernel,
        sums.programs(tiling.classes, learn) + tiling.bags * tiling.class_blocks * tiling.walks,
        {
            **tiles.inputs(x, mask),
            "gradient_ptr": gradient,
            "sharpness_ptr": of_classes(sharpness, x),
            "statistics_ptr": statistics,
            "x_gradient_ptr": x_gradient,
            "sharpness_gradient_ptr": or_else(sharpness_gradient, x),
            "walk_frames": tiling.walk_frames,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            "LEARN": learn,
            **tiling.constants(x, mask, x_gradient),
        },
        registers=255 if x.dtype == torch.float64 else None,
    )
    return [walk]
