"""What the kernels of statistics pooling share: tiles of channels and frames, and their scores.

Tiles are (heads, channels of a head, frames); sums keep their axes. Strides travel as tuples in the
order (bag, channel or head, frame). A head too wide for one tile is cut into blocks of channels:
what its frames' scores need of all of them is then computed by a launch of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, tiles

LOG2_E = tl.constexpr(1.4426950408889634)
#: What float32 leaves of it.
_LOG2_E_REST = tl.constexpr(1.92596298909e-8)

#: Stands for -inf as the peak of nothing: differences of it stay numbers.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def floor_of(eps, like):
    """The least variance, from its parts in float32, in the type of other variances."""
    high, middle, low = eps
    floor = tl.cast(high, like.dtype) + tl.cast(middle, like.dtype)
    return floor + tl.cast(low, like.dtype)


@triton.jit
def block_of(program, heads, width, BLOCK_HEADS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """What a program works on: its block of channels of a head, heads and channels of that block,
    whether they exist, and the rest of the program's number."""
    head_blocks = tl.cdiv(heads, BLOCK_HEADS)
    width_blocks = tl.cdiv(width, BLOCK_WIDTH)
    width_start = program % width_blocks * BLOCK_WIDTH
    head_start = program // width_blocks % head_blocks * BLOCK_HEADS
    head = head_start + tl.arange(0, BLOCK_HEADS)[:, None, None]
    in_head = width_start + tl.arange(0, BLOCK_WIDTH)[None, :, None]
    return head, in_head, program // width_blocks // head_blocks


@triton.jit
def tile(pointer, bag, channel, frame, strides, WIDE: tl.constexpr, ALIGNED: tl.constexpr = 1):
    """Addresses of a tile: its first in 64 bits, offsets from there in 64 bits only if WIDE. The
    strides of bags and channels are multiples of ALIGNED."""
    stride_bag, stride_channel, stride_frame = strides
    stride_bag = tiles.multiple(stride_bag, ALIGNED)
    stride_channel = tiles.multiple(stride_channel, ALIGNED)
    if WIDE:
        channel = channel.to(tl.int64)
        frame = frame.to(tl.int64)
    start = pointer + tl.cast(bag, tl.int64) * stride_bag
    return start + channel * stride_channel + frame * stride_frame


@triton.jit
def frames_of(
    frame_start,
    last,
    mask_ptr,
    bag,
    mask_strides,
    BLOCK_FRAMES: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Frames of a tile, which of them exist, and which of those are not masked. How
    many exist is a multiple of ALIGNED."""
    frame = frame_start + tl.arange(0, BLOCK_FRAMES)[None, None, :]
    exists = frame < tiles.multiple(last, ALIGNED)
    real = exists
    if MASKED:
        stride_bag, stride_frame = mask_strides
        address = mask_ptr + tl.cast(bag, tl.int64) * stride_bag
        address += frame.to(tl.int64) * stride_frame
        real = exists & (tl.load(address, mask=exists, other=0) != 0)
    return frame, exists, real


@triton.jit
def score_of(x, query, scores_tile, exists, COMPUTE: tl.constexpr, GIVEN: tl.constexpr):
    """Scores (heads, 1, frames): read, or scalar products with the query."""
    if GIVEN:
        # Read by the first channel's threads: by all, they would take many registers.
        channel = tl.arange(0, x.shape[1])[None, :, None]
        tile = scores_tile + tl.zeros_like(channel)
        terms = tl.load(tile, mask=exists & (channel == 0), other=0).to(COMPUTE)
    else:
        terms = query * x
    return tl.sum(terms, 1, keep_dims=True)


@triton.jit
def exponential(score, peak):
    """exp(score) / 2^peak: small from its first rounding on, and so exact. The constant's second
    half counts where the scores are large."""
    ones = tl.zeros_like(score) + 1
    relative = tl.fma(score, ones * LOG2_E, -peak * ones)
    if score.dtype == tl.float32:
        relative = tl.fma(score, ones * _LOG2_E_REST, relative)
    return formula.exp2_below(peak, relative, score * LOG2_E)
