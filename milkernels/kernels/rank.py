"""Global weighted rank pooling in Triton: what its kernels are launched with.

A bag of usual length is sorted in registers by the one kernel that pools it. Longer bags, and
float64, are sorted by PyTorch between two kernels, and their parts are joined by a third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import rank_kernels as kernels
from milkernels.kernels import tiles
from milkernels.kernels.launch import Launch, float32_parts

#: Of a thread at most: left alone, the assembler spills two rather than give it some more.
_REGISTERS = 128

#: Bags of up to this many frames are sorted in registers.
SORTED_FRAMES = 1024

#: Elements that one program sorts, in rows of neighbouring classes, which share the mask.
_SORTED_ELEMENTS = 2048

#: Few long bags are weighed in segments of this many ranks.
SEGMENT_FRAMES = 8192

_MERGE_CELLS = 128
_WEIGHED_FRAMES = 1024

_KEYS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


@dataclass(frozen=True)
class Sort:
    """Rows of keys sorted by PyTorch, the earlier of equals first: a step between two launches."""

    keys: Tensor
    sorted_keys: Tensor
    order: Tensor

    def run(self) -> None:
        torch.sort(self.keys, dim=-1, stable=True, out=(self.sorted_keys, self.order))


def forward(
    x: Tensor, mask: Tensor | None, decay: float, from_logits: bool, ranks: Tensor | None
) -> tuple[list[Launch | Sort], tuple[Tensor, Tensor]]:
    """Launches of a forward pass, and their outputs: bag values and totals of the weights (bags,
    classes). They fill `ranks` if those are wanted: each real frame's, -1 for the others."""
    y = x.new_empty(x.shape[:2])
    total = x.new_empty(x.shape[:2], dtype=tiles.arithmetic_dtype(x))
    outputs = {"y_ptr": y, "total_ptr": total}
    ordering = {
        "ranks_ptr": y if ranks is None else ranks,
        "ranks_strides": (0, 0, 0) if ranks is None else ranks.stride(),
        "log2_decay": _log2(decay),
        "FROM_LOGITS": from_logits,
        "KEEP_RANKS": ranks is not None,
        "COMPUTE": _compute(x),
    }
    if x.shape[2] <= SORTED_FRAMES and x.dtype != torch.float64:
        return [_sorted_in_registers(x, mask, outputs, ordering)], (y, total)
    return _sorted_by_pytorch(x, mask, outputs, ordering), (y, total)


def backward(
    gradient: Tensor,
    x: Tensor,
    ranks: Tensor,
    total: Tensor,
    decay: float,
    from_logits: bool,
    x_gradient: Tensor,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradient of x."""
    tiling = tiles.tile(x_gradient)
    walk = Launch(
        kernels._rank_backward_kernel,
        tiling.bags * tiling.class_blocks * tiling.walks,
        {
            "gradient_ptr": gradient,
            "x_ptr": x,
            "ranks_ptr": ranks,
            "total_ptr": total,
            "x_gradient_ptr": x_gradient,
            **_sizes(x),
            "walk_frames": tiling.walk_frames,
            "log2_decay": _log2(decay),
            "gradient_strides": gradient.stride(),
            "x_strides": x.stride(),
            "ranks_strides": ranks.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "FROM_LOGITS": from_logits,
            **tiling.constants(x, ranks, x_gradient),
        },
    )
    return [walk]


def _sorted_in_registers(
    x: Tensor, mask: Tensor | None, outputs: dict[str, Any], ordering: dict[str, Any]
) -> Launch:
    bags, classes, frames = x.shape
    block_frames = max(triton.next_power_of_2(frames), 16)
    block_classes = min(_SORTED_ELEMENTS // block_frames, triton.next_power_of_2(classes), 16)
    tiling = tiles.Tiling(bags, classes, frames, max(block_classes, 1), block_frames)
    arguments = {
        **_masked(x, mask),
        **outputs,
        **_sizes(x),
        **tiling.constants(x),
        **ordering,
        "LOG2_FRAMES": block_frames.bit_length() - 1,
    }
    programs = bags * tiling.class_blocks
    return Launch(kernels._rank_forward_kernel, programs, arguments, registers=_REGISTERS)


def _sorted_by_pytorch(
    x: Tensor, mask: Tensor | None, outputs: dict[str, Any], ordering: dict[str, Any]
) -> list[Launch | Sort]:
    bags, classes, frames = x.shape
    cells = bags * classes
    tiling = tiles.tile(x)
    keys, sorted_keys = (x.new_empty(x.shape, dtype=_KEYS[x.element_size()]) for _ in range(2))
    order = x.new_empty(x.shape, dtype=torch.int64)
    segment_frames = SEGMENT_FRAMES if cells < tiles.FEW_PROGRAMS else max(frames, 1)
    segments = triton.cdiv(frames, segment_frames)
    partial = outputs["total_ptr"].new_empty((segments, 4, cells))
    fill = Launch(
        kernels._rank_keys_kernel,
        bags * tiling.class_blocks * tiling.walks,
        {
            **_masked(x, mask),
            **_sizes(x),
            "keys_ptr": keys,
            "keys_strides": keys.stride(),
            "walk_frames": tiling.walk_frames,
            "WIDE": tiling.constants(x, keys)["WIDE"],
            "BLOCK_CLASSES": tiling.block_classes,
            "BLOCK_FRAMES": tiling.block_frames,
        },
    )
    weigh = Launch(
        kernels._rank_weigh_kernel,
        cells * segments,
        {
            "keys_ptr": sorted_keys,
            "order_ptr": order,
            "partial_ptr": partial,
            "cells": cells,
            **_sizes(x),
            "segment_frames": segment_frames,
            **ordering,
            "ELEMENT": _ELEMENTS[x.dtype],
            "BLOCK_FRAMES": min(_WEIGHED_FRAMES, max(triton.next_power_of_2(frames), 16)),
        },
        registers=2 * _REGISTERS - 1 if x.dtype == torch.float64 else _REGISTERS,
    )
    merge = Launch(
        kernels._rank_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {
            "partial_ptr": partial,
            **outputs,
            "cells": cells,
            "segments": segments,
            "COMPUTE": ordering["COMPUTE"],
            "BLOCK_CELLS": _MERGE_CELLS,
        },
        # Two cells a thread: with one the compiler spills around float64's division.
        num_warps=2,
    )
    return [fill, Sort(keys, sorted_keys, order), weigh, merge]


_ELEMENTS = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@cache
def _log2(decay: float) -> tuple[float, ...]:
    """log2 of a decay in parts. That of 0 is so low that its powers but the first are 0."""
    return float32_parts(math.log2(decay) if decay > 0 else -2000.0)


def _compute(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _sizes(x: Tensor) -> dict[str, int]:
    return {"classes": x.shape[1], "frames": x.shape[2]}


def _masked(x: Tensor, mask: Tensor | None) -> dict[str, Any]:
    return {
        "x_ptr": x,
        "x_strides": x.stride(),
        "mask_ptr": x if mask is None else mask.view(torch.uint8),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
        "MASKED": mask is not None,
    }
