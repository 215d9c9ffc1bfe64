"""Attention whose scores are normalised over the classes, in Triton: what its kernels are launched
with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS
from milkernels.kernels import class_attention_backward_kernels as backward_kernels
from milkernels.kernels import class_attention_kernels as kernels
from milkernels.kernels import tiles
from milkernels.kernels.launch import Launch, or_else, strides_of

#: Up to this many classes lie in one tile.
WHOLE_CLASSES = 1024

#: Bytes of a tile in the arithmetic dtype, and of one thread's share: twice as many spill.
_TILE_BYTES = 16384
_THREAD_BYTES = 64

#: Registers that a thread of a forward pass may have, but for float64: left to itself NVIDIA's
#: assembler takes fewer and spills.
_REGISTERS = 128

#: A bag is cut into segments until there are this many programs, but not into shorter ones than
#: keep its parts' sums within a fiftieth of what is read.
_PROGRAMS = 256
_SEGMENT_FRAMES = 112

#: Frames that one program of a backward pass walks through: what it reads once for each class is
#: then little beside them.
_WALK_FRAMES = 64

_MERGE_CELLS = 128


def forward(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    from_logits: bool,
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass, and their outputs: bag values (bags, classes), and the weights'
    totals and the averages (2, bags, classes)."""
    bags, classes, frames = x.shape
    tiling = _tile(x)
    compute = tiles.arithmetic_dtype(x)
    y = x.new_empty((bags, classes))
    statistics = x.new_empty((2, bags, classes), dtype=compute)
    segment_frames = _segment_frames(x, tiling)
    segments = max(triton.cdiv(frames, segment_frames), 1)
    partial = statistics
    if segments > 1:
        partial = x.new_empty((segments, 2, bags, classes), dtype=compute)
    outputs = {"y_ptr": y, "statistics_ptr": statistics, "partial_ptr": partial}
    inputs = _inputs(x, scores, mask, score_activation, from_logits)
    of_frames = _of_frames(x, 2)
    walk = Launch(
        kernels._class_attention_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **inputs,
            **outputs,
            "frames_ptr": of_frames,
            "segment_frames": segment_frames,
            "WHOLE": classes <= WHOLE_CLASSES,
            "SEGMENTED": segments > 1,
            **tiling.constants(x, scores),
            "ALIGNED": tiles.aligned(x, scores),
        },
        _warps(x, tiling),
        registers=None if x.dtype == torch.float64 else _REGISTERS,
    )
    launches = [walk]
    if classes > WHOLE_CLASSES:
        launches.insert(0, _frames_launch(None, x, scores, statistics, of_frames, inputs))
    if segments > 1:
        cells = bags * classes
        constants = tiling.constants(x)
        arguments = {
            **outputs,
            "cells": cells,
            "segments": segments,
            "COMPUTE": constants["COMPUTE"],
            "BLOCK_CELLS": _MERGE_CELLS,
        }
        launches.append(
            Launch(
                kernels._class_attention_merge_kernel,
                triton.cdiv(cells, _MERGE_CELLS),
                arguments,
            )
        )
    return launches, (y, statistics)


def backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    score_activation: str | None,
    from_logits: bool,
    x_gradient: Tensor | None,
    scores_gradient: Tensor | None,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradients that are given."""
    bags, classes, frames = x.shape
    tiling = _tile(x)
    walk_frames = _WALK_FRAMES * max(4 // x.element_size(), 1)
    inputs = _inputs(x, scores, mask, score_activation, from_logits)
    of_frames = _of_frames(x, 3)
    walk = Launch(
        backward_kernels._class_attention_backward_kernel,
        bags * tiling.class_blocks * triton.cdiv(frames, walk_frames),
        {
            **inputs,
            "gradient_ptr": gradient,
            "gradient_strides": gradient.stride(),
            "statistics_ptr": statistics,
            "frames_ptr": of_frames,
            "x_gradient_ptr": or_else(x_gradient, x),
            "x_gradient_strides": strides_of(x_gradient),
            "scores_gradient_ptr": or_else(scores_gradient, x),
            "scores_gradient_strides": strides_of(scores_gradient),
            "walk_frames": walk_frames,
            "WHOLE": classes <= WHOLE_CLASSES,
            "TO_X": x_gradient is not None,
            "TO_SCORES": scores_gradient is not None,
            **tiling.constants(x, scores, x_gradient, scores_gradient),
            "ALIGNED": tiles.aligned(x, scores, x_gradient, scores_gradient),
        },
        _warps(x, tiling),
    )
    if classes <= WHOLE_CLASSES:
        return [walk]
    return [_frames_launch(gradient, x, scores, statistics, of_frames, inputs), walk]


def _tile(x: Tensor) -> tiles.Tiling:
    """All classes and a few frames, or if there are too many classes any tile."""
    bags, classes, frames = x.shape
    if classes > WHOLE_CLASSES:
        return tiles.tile(x)
    block_classes = max(triton.next_power_of_2(classes), 16)
    block_frames = _TILE_BYTES // tiles.arithmetic_dtype(x).itemsize // block_classes
    return tiles.Tiling(
        bags,
        classes,
        frames,
        block_classes,
        min(block_frames, 64, max(triton.next_power_of_2(frames), 16)),
    )


def _warps(x: Tensor, tiling: tiles.Tiling) -> int:
    size = tiling.block_classes * tiling.block_frames * tiles.arithmetic_dtype(x).itemsize
    # Half precision is kept beside what it is converted to.
    share = _THREAD_BYTES if x.element_size() >= 4 else _THREAD_BYTES // 2
    return max(size // (32 * share), tiles.NUM_WARPS)


def _segment_frames(x: Tensor, tiling: tiles.Tiling) -> int:
    """Frames that one program of a forward pass walks through, in whole tiles that start where wide
    loads may."""
    programs = max(tiling.bags * tiling.class_blocks, 1)
    shortest = _SEGMENT_FRAMES * tiles.arithmetic_dtype(x).itemsize // x.element_size()
    segments = min(triton.cdiv(_PROGRAMS, programs), triton.cdiv(tiling.frames, shortest))
    length = triton.cdiv(tiling.frames, max(segments, 1))
    whole = max(tiling.block_frames, tiles.ALIGNED_FRAMES)
    return max(triton.cdiv(length, whole), 1) * whole


def _of_frames(x: Tensor, rows: int) -> Tensor:
    """Memory for what is known of frames, where a tile does not hold all classes."""
    bags, classes, frames = x.shape
    if classes <= WHOLE_CLASSES:
        return x
    return x.new_empty((rows, bags, frames), dtype=tiles.arithmetic_dtype(x))


def _frames_launch(
    gradient: Tensor | None,
    x: Tensor,
    scores: Tensor,
    statistics: Tensor,
    of_frames: Tensor,
    inputs: dict[str, Any],
) -> Launch:
    tiling = tiles.tile(x)
    if x.dtype == torch.float64:
        # Half a tile: a whole one spills registers.
        tiling = replace(tiling, block_classes=max(tiling.block_classes // 2, 1))
    return Launch(
        backward_kernels._class_attention_frames_kernel,
        tiling.bags * triton.cdiv(tiling.frames, tiling.block_frames),
        {
            **inputs,
            "gradient_ptr": or_else(gradient, x),
            "gradient_strides": (0, 0) if gradient is None else gradient.stride(),
            "statistics_ptr": statistics,
            "frames_ptr": of_frames,
            "BACKWARD": gradient is not None,
            **tiling.constants(x, scores),
            "ALIGNED": tiles.aligned(x, scores),
        },
    )


def _inputs(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    from_logits: bool,
) -> dict[str, Any]:
    bags, classes, frames = x.shape
    return {
        "x_ptr": x,
        "scores_ptr": scores,
        "mask_ptr": x if mask is None else mask.view(torch.uint8),
        "bags": bags,
        "classes": classes,
        "frames": frames,
        "x_strides": x.stride(),
        "scores_strides": scores.stride(),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
        # The order of the names is the numbering of the kernels.
        "ACTIVATION": SCORE_ACTIVATIONS.index(score_activation),
        "FROM_LOGITS": from_logits,
        "MASKED": mask is not None,
    }
