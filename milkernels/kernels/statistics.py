"""What the kernels of statistics pooling are launched with: outputs, grid, block sizes, flags.

One launch forward, one backward and a small one that sums the query's gradient. Long bags of few
rows add a merge forward. A head of more than `MAX_WIDTH` channels does not fit a tile: the scores
of its frames, and backward their slopes, are computed by a launch before the others, which reads
the embeddings a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import statistics_backward_kernels, statistics_forward_kernels, tiles
from milkernels.kernels.launch import Launch, float32_parts, or_else, strides_of

#: Elements of a tile, 8 for each thread. Where channels lie side by side a thread has twice as many
#: frames, and what it does once for each of its channels is half as much; four times as many spill
#: registers. Wide heads get the larger tile, for as many frames side by side as fill a sector of
#: memory.
_TILE_ELEMENTS = 2048
_WIDE_TILE_ELEMENTS = 8192
_WARP_ELEMENTS = 256
_MAX_WARPS = 16
_MIN_FRAMES = 16

#: Channels of a head that one tile holds.
MAX_WIDTH = 1024

#: Registers that a thread of a backward pass with a query may have, but for float64: left to itself
#: NVIDIA's assembler takes fewer and spills.
_QUERY_REGISTERS = 128
#: Heads of which threads take these many registers to score frames, in float32: NVIDIA's assembler
#: would take fewer and spill.
_SCORING_WIDTH = 128
_SCORING_REGISTERS = 80

#: A bag is cut into segments of this many frames when there are too few programs to fill a GPU.
SEGMENT_FRAMES = 1024
_FEW_PROGRAMS = 512

#: Frames that one program of a backward pass walks through.
_WALK_FRAMES = 256


@dataclass(frozen=True)
class _Tiling:
    """Block sizes for one shape and layout, chosen from those alone so that results repeat."""

    bags: int
    heads: int
    width: int
    frames: int
    block_heads: int
    block_width: int
    block_frames: int
    num_warps: int

    @staticmethod
    def of(h: Tensor, heads: int) -> _Tiling:
        bags, channels, frames = h.shape
        width = channels // heads
        block_width = min(max(triton.next_power_of_2(width), 1), MAX_WIDTH)
        wide_frames = max(triton.next_power_of_2(frames), _MIN_FRAMES)
        wide_heads = triton.next_power_of_2(heads)
        halves = 2 if h.dtype == torch.float64 else 1
        across = h.stride(1) < h.stride(2)
        # float64 spills.
        share = 2 if across and halves == 1 else 1
        elements = _TILE_ELEMENTS * share // halves
        least_frames = min(_MIN_FRAMES, _WIDE_TILE_ELEMENTS // halves // block_width)
        if across:
            # Enough channels side by side for whole lines of the cache.
            block_heads = min(wide_heads, max(64 // block_width, 1))
            rest = elements // (block_heads * block_width)
            block_frames = min(max(rest, least_frames), wide_frames)
        else:
            block_frames = min(max(elements // block_width, least_frames), wide_frames)
            rest = elements // (block_width * block_frames)
            block_heads = min(wide_heads, max(rest, 1))
        tile = block_heads * block_width * block_frames
        warps = tile * halves // (_WARP_ELEMENTS * share)
        num_warps = min(max(warps, tiles.NUM_WARPS), _MAX_WARPS)
        blocks = (block_heads, block_width, block_frames)
        return _Tiling(bags, heads, width, frames, *blocks, num_warps)

    @property
    def is_cut(self) -> bool:
        """Whether a head takes several tiles."""
        return self.width > self.block_width

    @property
    def rows(self) -> int:
        """Programs for each stretch of frames."""
        blocks = triton.cdiv(self.heads, self.block_heads)
        return self.bags * blocks * triton.cdiv(self.width, self.block_width)

    @property
    def segment_frames(self) -> int:
        """Frames that one program of a forward pass walks through."""
        split = self.rows < _FEW_PROGRAMS and self.frames >= 2 * SEGMENT_FRAMES
        return SEGMENT_FRAMES if split else max(self.frames, 1)

    @property
    def segments(self) -> int:
        return max(triton.cdiv(self.frames, self.segment_frames), 1)

    @property
    def walks(self) -> int:
        return triton.cdiv(self.frames, _WALK_FRAMES)

    def sizes(self) -> dict[str, int]:
        return {"bags": self.bags, "heads": self.heads, "width": self.width}

    def blocks(self) -> dict[str, int]:
        return {"BLOCK_HEADS": self.block_heads, "BLOCK_WIDTH": self.block_width}


def forward(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
) -> tuple[list[Launch], tuple[Tensor, ...]]:
    """Launches of a forward pass over h (bags, channels, frames), and their outputs: the statistics
    (bags, 2 · channels), then what the backward pass needs: peak and total of the weights (2, bags,
    heads), mean, what rounding took off it, and variance (3, bags, channels)."""
    bags, channels, _ = h.shape
    heads = cast(Tensor, scores).shape[1] if query is None else query.shape[0]
    tiling = _Tiling.of(h, heads)
    compute = tiles.arithmetic_dtype(h)
    y = h.new_empty((bags, 2 * channels))
    outputs = {
        "normaliser_ptr": h.new_empty((2, bags, heads), dtype=compute),
        "moments_ptr": h.new_empty((3, bags, channels), dtype=compute),
    }
    results = (y, *outputs.values())
    launches = []
    if tiling.is_cut and scores is None:
        scores = h.new_empty((bags, heads, tiling.frames), dtype=compute)
        launches.append(_scores_of_cut_heads(tiling, h, query, None, mask, eps, scores))
    crowded = scores is None and tiling.block_width >= _SCORING_WIDTH and h.dtype == torch.float32
    segments = tiling.segments
    parts = {
        name: tensor.new_empty((segments, *tensor.shape)) if segments > 1 else tensor
        for name, tensor in outputs.items()
    }
    walk = Launch(
        statistics_forward_kernels._statistics_forward_kernel,
        tiling.rows * segments,
        {
            **_inputs(tiling, h, query, scores, mask, eps),
            **parts,
            "y_ptr": y,
            "segment_frames": tiling.segment_frames,
            "SEGMENTED": segments > 1,
            "BLOCK_HEADS": tiling.block_heads,
        },
        tiling.num_warps,
        _SCORING_REGISTERS if crowded else None,
    )
    launches.append(walk)
    if segments > 1:
        merge = Launch(
            statistics_forward_kernels._statistics_merge_kernel,
            tiling.rows,
            {
                "partial_normaliser_ptr": parts["normaliser_ptr"],
                "partial_moments_ptr": parts["moments_ptr"],
                "y_ptr": y,
                **outputs,
                **tiling.sizes(),
                "segments": segments,
                "eps": float32_parts(eps),
                **tiling.blocks(),
            },
        )
        launches.append(merge)
    return launches, results


def backward(
    gradient: Tensor,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    normaliser: Tensor,
    moments: Tensor,
    eps: float,
    h_gradient: Tensor | None,
    query_gradient: Tensor | None,
    scores_gradient: Tensor | None,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradients that are given."""
    bags, channels, frames = h.shape
    heads = normaliser.shape[2]
    if channels == 0 and scores_gradient is not None:
        scores_gradient.zero_()  # No program writes it.
    tiling = _Tiling.of(h, heads)
    compute = tiles.arithmetic_dtype(h)
    rows = bags * tiling.walks
    parts = None
    launches = []
    if query_gradient is not None:
        parts = h.new_empty((rows, channels), dtype=compute)
    slopes = None
    if tiling.is_cut:
        saved = (gradient, normaliser, moments)
        own_scores = None
        slopes = scores_gradient
        if scores is None:
            own_scores = h.new_empty((bags, heads, frames), dtype=compute)
            slopes = torch.empty_like(own_scores)
        if slopes is not None:
            arguments = (query, scores, mask, eps, own_scores, slopes, saved)
            launches.append(_scores_of_cut_heads(tiling, h, *arguments))
        scores = scores if own_scores is None else own_scores
    walk = Launch(
        statistics_backward_kernels._statistics_backward_kernel,
        tiling.rows * tiling.walks,
        {
            **_inputs(tiling, h, query, scores, mask, eps, h_gradient),
            "gradient_ptr": gradient,
            "normaliser_ptr": normaliser,
            "moments_ptr": moments,
            "slopes_ptr": or_else(slopes, h),
            "h_gradient_ptr": or_else(h_gradient, h),
            "scores_gradient_ptr": or_else(scores_gradient, h),
            "query_parts_ptr": or_else(parts, h),
            "walk_frames": _WALK_FRAMES,
            "gradient_strides": gradient.stride(),
            "h_gradient_strides": strides_of(h_gradient),
            "scores_gradient_strides": strides_of(scores_gradient),
            "slopes_strides": strides_of(slopes),
            "CUT": tiling.is_cut,
            "QUERY": query is not None,
            "WRITES_H": h_gradient is not None,
            "WRITES_SCORES": scores_gradient is not None and not tiling.is_cut,
            "WRITES_QUERY": query_gradient is not None,
            "BLOCK_HEADS": tiling.block_heads,
        },
        tiling.num_warps,
        registers=_registers(h, query),
    )
    launches.append(walk)
    if query_gradient is not None:
        total = Launch(
            statistics_backward_kernels._statistics_sum_kernel,
            triton.cdiv(channels, statistics_backward_kernels.SUM_CHANNELS.value),
            {
                "parts_ptr": parts,
                "query_gradient_ptr": query_gradient,
                "parts": rows,
                "channels": channels,
                "COMPUTE": _compute(h),
            },
        )
        launches.append(total)
    return launches


def _scores_of_cut_heads(
    tiling: _Tiling,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    own_scores: Tensor | None,
    slopes: Tensor | None = None,
    saved: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Launch:
    """The launch that computes scores unless they are given, and slopes out of what is saved."""
    gradient, normaliser, moments = (h, h, h) if saved is None else saved
    return Launch(
        statistics_backward_kernels._statistics_scores_kernel,
        tiling.bags * tiling.heads * triton.cdiv(tiling.frames, tiling.block_frames),
        {
            **_inputs(tiling, h, query, scores, mask, eps),
            "gradient_ptr": gradient,
            "normaliser_ptr": normaliser,
            "moments_ptr": moments,
            "own_scores_ptr": or_else(own_scores, h),
            "slopes_ptr": or_else(slopes, h),
            "gradient_strides": (0, 0) if saved is None else gradient.stride(),
            "own_scores_strides": strides_of(own_scores),
            "slopes_strides": strides_of(slopes),
            "SLOPES": slopes is not None,
        },
        tiling.num_warps,
    )


def _inputs(
    tiling: _Tiling,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    *others: Tensor | None,
) -> dict[str, Any]:
    """Arguments that the walks over frames share."""
    return {
        "h_ptr": h,
        "query_ptr": h if query is None else query.contiguous(),
        "scores_ptr": or_else(scores, h),
        "mask_ptr": h if mask is None else mask.view(torch.uint8),
        **tiling.sizes(),
        "frames": tiling.frames,
        "eps": float32_parts(eps),
        "h_strides": h.stride(),
        "scores_strides": strides_of(scores),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
        "GIVEN": scores is not None,
        "MASKED": mask is not None,
        "WIDE": any(_is_wide(tensor) for tensor in (h, *others) if tensor is not None),
        "ALIGNED": tiles.aligned(h, *others),
        "COMPUTE": _compute(h),
        "BLOCK_WIDTH": tiling.block_width,
        "BLOCK_FRAMES": tiling.block_frames,
    }


def _registers(h: Tensor, query: Tensor | None) -> int | None:
    return None if query is None or h.dtype == torch.float64 else _QUERY_REGISTERS


def _compute(h: Tensor) -> tl.dtype:
    return tl.float64 if h.dtype == torch.float64 else tl.float32


def _is_wide(tensor: Tensor) -> bool:
    """Whether an offset inside a bag can leave 32 bits."""
    reach = tensor.shape[1] * tensor.stride(1) + tensor.shape[2] * tensor.stride(2)
    return reach >= 2**31
