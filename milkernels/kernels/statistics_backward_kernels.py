"""Weighted mean and deviation of each channel in Triton: the backward kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import jit, sums, tiles
from milkernels.kernels import statistics_tiles as parts

#: Rows and channels that one step of the sum of the query's gradient takes.
SUM_ROWS = tl.constexpr(32)
SUM_CHANNELS = tl.constexpr(32)


@triton.jit
def _slopes(
    gradient_ptr,
    moments_ptr,
    eps,
    bag,
    bags,
    head,
    in_head,
    heads,
    width,
    gradient_strides,
    COMPUTE: tl.constexpr,
):
    """Means of channels, what rounding took off them, variances, and the coefficients of their
    frames' gradients p (direct + curve · residual)."""
    inside = (head < heads) & (in_head < width)
    channels = heads * width
    of_channel = moments_ptr + tl.cast(bag, tl.int64) * channels + head * width + in_head
    row = tl.cast(bags, tl.int64) * channels
    mean = tl.load(of_channel, mask=inside, other=0)
    lost = tl.load(of_channel + row, mask=inside, other=0)
    variance = tl.load(of_channel + 2 * row, mask=inside, other=0)
    stride_bag, stride_output = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag
    output = (2 * head * width + in_head).to(tl.int64)
    direct = tl.load(address + output * stride_output, mask=inside, other=0).to(COMPUTE)
    address += tl.cast(width, tl.int64) * stride_output
    to_deviation = tl.load(address + output * stride_output, mask=inside, other=0).to(COMPUTE)
    varies = variance > parts.floor_of(eps, variance)
    curve = tl.where(varies, to_deviation / tl.sqrt(tl.where(varies, variance, 1.0)), 0.0)
    return mean, lost, variance, direct, curve


@triton.jit
def _score_slope(residual, variance, direct, curve, inside):
    """Σ over channels of direct · residual + curve / 2 · (residual² - variance): a score's gradient
    over p. Its weighted sum over frames is 0, so nothing is centred afterwards."""
    spread = residual * residual - variance
    term = direct * residual + 0.5 * curve * spread
    return tl.sum(tl.where(inside, term, 0.0), 1, keep_dims=True)


@triton.jit
def _weight(score, normaliser_ptr, bag, bags, head, heads, real):
    """Normalised weights of scores."""
    has_head = head < heads
    of_head = normaliser_ptr + tl.cast(bag, tl.int64) * heads + head
    peak = tl.load(of_head, mask=has_head, other=0)
    total = tl.load(of_head + tl.cast(bags, tl.int64) * heads, mask=has_head, other=1)
    return tl.where(has_head & real, parts.exponential(score, peak) / total, 0.0)


@jit.kernel
def _statistics_backward_kernel(
    gradient_ptr,
    h_ptr,
    query_ptr,
    scores_ptr,
    mask_ptr,
    normaliser_ptr,
    moments_ptr,
    slopes_ptr,
    h_gradient_ptr,
    scores_gradient_ptr,
    query_parts_ptr,
    bags,
    heads,
    width,
    frames,
    walk_frames,
    eps,
    gradient_strides,
    h_strides,
    scores_strides,
    mask_strides,
    h_gradient_strides,
    scores_gradient_strides,
    slopes_strides,
    GIVEN: tl.constexpr,
    CUT: tl.constexpr,
    QUERY: tl.constexpr,
    MASKED: tl.constexpr,
    WRITES_H: tl.constexpr,
    WRITES_SCORES: tl.constexpr,
    WRITES_QUERY: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Elementwise in the frames once their scores' gradients are there: those are summed over the
    tile, or read where a head is CUT into several tiles."""
    head, in_head, rest = parts.block_of(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
    bag = rest % bags
    walk = rest // bags
    channel = head * width + in_head
    has_head = head < heads
    inside = has_head & (in_head < width)
    mean, lost, variance, direct, curve = _slopes(
        gradient_ptr,
        moments_ptr,
        eps,
        bag,
        bags,
        head,
        in_head,
        heads,
        width,
        gradient_strides,
        COMPUTE,
    )
    query = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    if QUERY:
        query = tl.load(query_ptr + channel, mask=inside, other=0).to(COMPUTE)
    query_sum = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    first = tiles.multiple(walk * walk_frames, ALIGNED)
    last = tl.minimum(first + walk_frames, frames)
    for frame_start in range(first, last, BLOCK_FRAMES):
        frame, exists, real = parts.frames_of(
            frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED, ALIGNED
        )
        raw = tl.load(
            parts.tile(h_ptr, bag, channel, frame, h_strides, WIDE, ALIGNED),
            mask=inside & exists,
            other=0,
        ).to(COMPUTE)
        x = tl.where(real, raw, 0.0)
        residual = (x - mean) - lost
        scores_tile = parts.tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = parts.score_of(x, query, scores_tile, has_head & exists, COMPUTE, GIVEN)
        weight = _weight(score, normaliser_ptr, bag, bags, head, heads, real)
        to_score = tl.zeros_like(weight)
        if CUT and QUERY:
            slopes_tile = parts.tile(slopes_ptr, bag, head, frame, slopes_strides, WIDE)
            to_score = tl.load(slopes_tile, mask=has_head & exists, other=0)
        elif not CUT:
            to_score = weight * _score_slope(residual, variance, direct, curve, inside)
            to_score = tl.where(real, to_score, 0.0)
        if WRITES_SCORES:
            tile = parts.tile(scores_gradient_ptr, bag, head, frame, scores_gradient_strides, WIDE)
            tl.store(tile, to_score, mask=has_head & exists)
        if WRITES_H:
            gradient = weight * (direct + curve * residual)
            if QUERY:
                gradient += to_score * query
            gradient = tl.where(real, gradient, 0.0)
            tile = parts.tile(
                h_gradient_ptr, bag, channel, frame, h_gradient_strides, WIDE, ALIGNED
            )
            tl.store(tile, gradient, mask=inside & exists)
        if WRITES_QUERY:
            query_sum += tl.sum(to_score * residual, 2, keep_dims=True)
    if WRITES_QUERY:
        row = tl.cast(rest, tl.int64) * heads * width
        tl.store(query_parts_ptr + row + channel, query_sum, mask=inside)


@jit.kernel
def _statistics_scores_kernel(
    gradient_ptr,
    h_ptr,
    query_ptr,
    scores_ptr,
    mask_ptr,
    normaliser_ptr,
    moments_ptr,
    own_scores_ptr,
    slopes_ptr,
    bags,
    heads,
    width,
    frames,
    eps,
    gradient_strides,
    h_strides,
    scores_strides,
    mask_strides,
    own_scores_strides,
    slopes_strides,
    GIVEN: tl.constexpr,
    SLOPES: tl.constexpr,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """What the frames of a head that is cut into blocks of channels need of all of them: scores
    unless they are GIVEN, with SLOPES the scores' gradients. A program sums over the blocks for one
    tile of frames."""
    frame_blocks = tl.cdiv(frames, BLOCK_FRAMES)
    program = tl.program_id(0)
    frame_start = program % frame_blocks * BLOCK_FRAMES
    head = program // frame_blocks % heads + tl.zeros((1, 1, 1), tl.int32)
    bag = program // frame_blocks // heads
    frame, exists, real = parts.frames_of(
        frame_start, frames, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED, ALIGNED
    )
    score = tl.zeros((1, 1, BLOCK_FRAMES), COMPUTE)
    slope = tl.zeros((1, 1, BLOCK_FRAMES), COMPUTE)
    for start in range(0, width, BLOCK_WIDTH):
        in_head = start + tl.arange(0, BLOCK_WIDTH)[None, :, None]
        inside = in_head < width
        channel = head * width + in_head
        raw = tl.load(
            parts.tile(h_ptr, bag, channel, frame, h_strides, WIDE, ALIGNED),
            mask=inside & exists,
            other=0,
        ).to(COMPUTE)
        x = tl.where(real, raw, 0.0)
        if not GIVEN:
            query = tl.load(query_ptr + channel, mask=inside, other=0).to(COMPUTE)
            score += tl.sum(query * x, 1, keep_dims=True)
        if SLOPES:
            mean, lost, variance, direct, curve = _slopes(
                gradient_ptr,
                moments_ptr,
                eps,
                bag,
                bags,
                head,
                in_head,
                heads,
                width,
                gradient_strides,
                COMPUTE,
            )
            slope += _score_slope((x - mean) - lost, variance, direct, curve, inside)
    if GIVEN:
        tile = parts.tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = tl.load(tile, mask=exists, other=0).to(COMPUTE)
    else:
        tile = parts.tile(own_scores_ptr, bag, head, frame, own_scores_strides, WIDE)
        tl.store(tile, score, mask=exists)
    if SLOPES:
        weight = _weight(score, normaliser_ptr, bag, bags, head, heads, real)
        tile = parts.tile(slopes_ptr, bag, head, frame, slopes_strides, WIDE)
        tl.store(tile, tl.where(real, weight * slope, 0.0), mask=exists)


@jit.kernel
def _statistics_sum_kernel(
    parts_ptr,
    query_gradient_ptr,
    parts,
    channels,
    COMPUTE: tl.constexpr,
):
    """The query's gradient: what every program of the backward pass gave to it, in order."""
    channel = tl.program_id(0) * SUM_CHANNELS + tl.arange(0, SUM_CHANNELS)
    total = tl.zeros((SUM_CHANNELS,), COMPUTE)
    lost = tl.zeros((SUM_CHANNELS,), COMPUTE)
    for start in range(0, parts, SUM_ROWS):
        row = (start + tl.arange(0, SUM_ROWS)).to(tl.int64)[:, None]
        inside = (row < parts) & (channel < channels)[None, :]
        part = tl.load(parts_ptr + row * channels + channel[None, :], mask=inside, other=0)
        total, lost = sums.add(total, lost, tl.sum(part, 0))
    tl.store(query_gradient_ptr + channel, total + lost, mask=channel < channels)
