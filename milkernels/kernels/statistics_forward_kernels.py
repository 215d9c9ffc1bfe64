"""Weighted mean and deviation of each channel in Triton: the forward kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, jit, sums, tiles
from milkernels.kernels import statistics_tiles as parts


@triton.jit
def _merge(mean, lost, variance, mean_b, lost_b, variance_b, share, share_b):
    """Mean, what rounding took off it, and variance of two parts together. Steps from the weightier
    mean towards the other: one without weight, however far, moves nothing."""
    leads = share_b > share
    base = tl.where(leads, mean_b, mean)
    base_lost = tl.where(leads, lost_b, lost)
    lesser = tl.where(leads, share, share_b)
    distance = tl.where(leads, mean, mean_b) - base
    lost_distance = tl.where(leads, lost, lost_b) - base_lost
    base_lost += lesser * lost_distance
    mean, lost = sums.add(base, base_lost, lesser * distance)
    # Rounded once where it is large: many parts are merged.
    base_variance = tl.where(leads, variance_b, variance)
    other_variance = tl.where(leads, variance, variance_b)
    # Near means far from 0 are as far apart in what they lost as in what they are.
    exact_distance = distance + lost_distance
    between = share * share_b * exact_distance * exact_distance
    variance = base_variance + (lesser * (other_variance - base_variance) + between)
    return mean, lost, variance


@triton.jit
def _write(
    peak,
    total,
    mean,
    lost,
    variance,
    normaliser_ptr,
    moments_ptr,
    y_ptr,
    eps,
    bag,
    bags,
    head,
    in_head,
    heads,
    width,
    FINISH: tl.constexpr,
):
    """A state as it is, or with FINISH as results: the statistics themselves besides, and for a bag
    without weight 0 and a total that takes its gradients to 0."""
    channels = heads * width
    bag = tl.cast(bag, tl.int64)
    cells = tl.cast(bags, tl.int64)
    has_head = head < heads
    inside = has_head & (in_head < width)
    channel = head * width + in_head
    of_head = normaliser_ptr + bag * heads + head
    of_channel = moments_ptr + bag * channels + channel
    first = has_head & (in_head == 0)
    if FINISH:
        nothing = total == 0
        floor = parts.floor_of(eps, variance)
        variance_floored = tl.where(variance < floor, floor, variance)
        deviation = tl.where(nothing, 0.0, tl.sqrt(variance_floored))
        address = y_ptr + bag * 2 * channels + channel + head * width
        tl.store(address, mean + lost, mask=inside)
        tl.store(address + width, deviation, mask=inside)
        peak = tl.where(nothing, 0.0, peak)
        total = tl.where(nothing, float("inf"), total)
    # Of the channels the first writes for its head.
    zeros = tl.zeros_like(mean)
    tl.store(of_head + in_head, peak + zeros, mask=first)
    tl.store(of_head + in_head + cells * heads, total + zeros, mask=first)
    tl.store(of_channel, mean, mask=inside)
    tl.store(of_channel + cells * channels, lost, mask=inside)
    tl.store(of_channel + 2 * cells * channels, variance, mask=inside)


@jit.kernel
def _statistics_forward_kernel(
    h_ptr,
    query_ptr,
    scores_ptr,
    mask_ptr,
    y_ptr,
    normaliser_ptr,
    moments_ptr,
    bags,
    heads,
    width,
    frames,
    segment_frames,
    eps,
    h_strides,
    scores_strides,
    mask_strides,
    GIVEN: tl.constexpr,
    MASKED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A program walks one segment of one bag's block of heads."""
    head, in_head, rest = parts.block_of(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
    bag = rest % bags
    segment = rest // bags
    channel = head * width + in_head
    has_head = head < heads
    inside = has_head & (in_head < width)
    query = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    if not GIVEN:
        query = tl.load(query_ptr + channel, mask=inside, other=0).to(COMPUTE)

    peak = tl.full((BLOCK_HEADS, 1, 1), parts.LOWEST, COMPUTE)
    total = tl.zeros((BLOCK_HEADS, 1, 1), COMPUTE)
    total_lost = tl.zeros((BLOCK_HEADS, 1, 1), COMPUTE)
    mean = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    lost = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    variance = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    first = tiles.multiple(segment * segment_frames, ALIGNED)
    last = tl.minimum(first + segment_frames, frames)
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
        scores_tile = parts.tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = parts.score_of(x, query, scores_tile, has_head & exists, COMPUTE, GIVEN)
        score = tl.where(real, score, -float("inf"))
        top = formula.finite_peak(tl.max(score * parts.LOG2_E, 2, keep_dims=True))
        joint_peak = tl.maximum(peak, top)
        scale = tl.exp2(peak - joint_peak)
        peak = joint_peak
        weight = parts.exponential(score, peak)
        here = tl.sum(weight, 2, keep_dims=True)
        before = (total + total_lost) * scale
        joint = before + here
        divisor = tl.where(joint == 0, 1.0, joint)
        total, total_lost = sums.add(total * scale, total_lost * scale, here)
        weight = weight / tl.where(here == 0, 1.0, here)
        mean_here = tl.sum(weight * x, 2, keep_dims=True)
        residual = x - mean_here
        # What the mean lacks is the mean of what is left.
        weighted = weight * residual
        lost_here = tl.sum(weighted, 2, keep_dims=True)
        variance_here = tl.sum(weighted * residual, 2, keep_dims=True) - lost_here * lost_here
        mean, lost, variance = _merge(
            mean,
            lost,
            variance,
            mean_here,
            lost_here,
            variance_here,
            before / divisor,
            here / divisor,
        )
    if SEGMENTED:
        part = tl.cast(segment, tl.int64) * bags
        normaliser_ptr += 2 * part * heads
        moments_ptr += 3 * part * heads * width
    _write(
        peak,
        total + total_lost,
        mean,
        lost,
        variance,
        normaliser_ptr,
        moments_ptr,
        y_ptr,
        eps,
        bag,
        bags,
        head,
        in_head,
        heads,
        width,
        not SEGMENTED,
    )


@jit.kernel
def _statistics_merge_kernel(
    partial_normaliser_ptr,
    partial_moments_ptr,
    y_ptr,
    normaliser_ptr,
    moments_ptr,
    bags,
    heads,
    width,
    segments,
    eps,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Join the segments of long bags, in order; in float64, as there may be many."""
    head, in_head, bag = parts.block_of(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
    has_head = head < heads
    inside = has_head & (in_head < width)
    cells = tl.cast(bags, tl.int64)
    channels = heads * width
    of_head = partial_normaliser_ptr + tl.cast(bag, tl.int64) * heads + head
    of_channel = partial_moments_ptr + tl.cast(bag, tl.int64) * channels + head * width + in_head
    peak = tl.full((BLOCK_HEADS, 1, 1), parts.LOWEST, tl.float64)
    total = tl.zeros((BLOCK_HEADS, 1, 1), tl.float64)
    mean = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    lost = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    variance = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    for segment in range(segments):
        part = tl.cast(segment, tl.int64) * cells
        there = of_head + 2 * part * heads
        peak_b = tl.load(there, mask=has_head, other=parts.LOWEST).to(tl.float64)
        total_b = tl.load(there + cells * heads, mask=has_head, other=0).to(tl.float64)
        there = of_channel + 3 * part * channels
        mean_b = tl.load(there, mask=inside, other=0).to(tl.float64)
        there += cells * channels
        lost_b = tl.load(there, mask=inside, other=0).to(tl.float64)
        there += cells * channels
        variance_b = tl.load(there, mask=inside, other=0).to(tl.float64)
        joint_peak = tl.maximum(peak, peak_b)
        total = total * tl.exp2(peak - joint_peak)
        total_b = total_b * tl.exp2(peak_b - joint_peak)
        peak = joint_peak
        joint = total + total_b
        divisor = tl.where(joint == 0, 1.0, joint)
        mean, lost, variance = _merge(
            mean, lost, variance, mean_b, lost_b, variance_b, total / divisor, total_b / divisor
        )
        total = joint
    rounded = mean.to(moments_ptr.dtype.element_ty).to(tl.float64)
    _write(
        peak,
        total,
        rounded,
        (mean - rounded) + lost,
        variance,
        normaliser_ptr,
        moments_ptr,
        y_ptr,
        eps,
        bag,
        bags,
        head,
        in_head,
        heads,
        width,
        True,
    )
