"""Weighted mean and deviation of each channel in Triton: kernels forward and backward.

Tiles are (heads, channels of a head, frames); sums keep their axes. Strides travel as tuples in the
order (bag, channel or head, frame). A head too wide for one tile is cut into blocks of channels:
what its frames' scores need of all of them is then computed by a launch of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
#: What float32 leaves of it.
_LOG2_E_REST = tl.constexpr(1.92596298909e-8)

#: Stands for -inf as the peak of nothing: differences of it stay numbers.
_LOWEST = tl.constexpr(-3.0e38)

#: Rows and channels that one step of the sum of the query's gradient takes.
SUM_ROWS = tl.constexpr(32)
SUM_CHANNELS = tl.constexpr(32)


@triton.jit
def _where(program, heads, width, BLOCK_HEADS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
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
def _tile(pointer, bag, channel, frame, strides, WIDE: tl.constexpr):
    """Addresses of a tile: its first in 64 bits, offsets from there in 64 bits only if WIDE."""
    stride_bag, stride_channel, stride_frame = strides
    if WIDE:
        channel = channel.to(tl.int64)
        frame = frame.to(tl.int64)
    start = pointer + tl.cast(bag, tl.int64) * stride_bag
    return start + channel * stride_channel + frame * stride_frame


@triton.jit
def _frames(
    frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES: tl.constexpr, MASKED: tl.constexpr
):
    """Frames of a tile, which of them exist, and which of those are not masked."""
    frame = frame_start + tl.arange(0, BLOCK_FRAMES)[None, None, :]
    exists = frame < last
    real = exists
    if MASKED:
        stride_bag, stride_frame = mask_strides
        address = mask_ptr + tl.cast(bag, tl.int64) * stride_bag
        address += frame.to(tl.int64) * stride_frame
        real = exists & (tl.load(address, mask=exists, other=0) != 0)
    return frame, exists, real


@triton.jit
def _score(x, query, scores_tile, exists, COMPUTE: tl.constexpr, GIVEN: tl.constexpr):
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
def _exponential(score, peak):
    """exp(score) / 2^peak: small from its first rounding on, and so exact. The constant's second
    half counts where the scores are large."""
    ones = tl.zeros_like(score) + 1
    relative = tl.fma(score, ones * _LOG2_E, -peak * ones)
    if score.dtype == tl.float32:
        relative = tl.fma(score, ones * _LOG2_E_REST, relative)
    return tl.exp2(relative)


@triton.jit
def _add(total, lost, term):
    """total + term, with what the addition loses kept beside."""
    joint = total + term
    added = joint - total
    return joint, lost + ((total - (joint - added)) + (term - added))


@triton.jit
def _merge(mean, lost, variance, mean_b, lost_b, variance_b, share, share_b):
    """Mean, what rounding took off it, and variance of two parts together. Steps from the weightier
    mean towards the other: one without weight, however far, moves nothing."""
    leads = share_b > share
    base = tl.where(leads, mean_b, mean)
    base_lost = tl.where(leads, lost_b, lost)
    lesser = tl.where(leads, share, share_b)
    distance = tl.where(leads, mean, mean_b) - base
    base_lost += lesser * (tl.where(leads, lost, lost_b) - base_lost)
    mean, lost = _add(base, base_lost, lesser * distance)
    # Rounded once where it is large: many parts are merged.
    base_variance = tl.where(leads, variance_b, variance)
    other_variance = tl.where(leads, variance, variance_b)
    between = share * share_b * distance * distance
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
        variance_floored = tl.where(variance < eps, eps, variance)
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


@triton.jit
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
    COMPUTE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A program walks one segment of one bag's block of heads."""
    head, in_head, rest = _where(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
    bag = rest % bags
    segment = rest // bags
    channel = head * width + in_head
    has_head = head < heads
    inside = has_head & (in_head < width)
    query = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    if not GIVEN:
        query = tl.load(query_ptr + channel, mask=inside, other=0).to(COMPUTE)

    peak = tl.full((BLOCK_HEADS, 1, 1), _LOWEST, COMPUTE)
    total = tl.zeros((BLOCK_HEADS, 1, 1), COMPUTE)
    total_lost = tl.zeros((BLOCK_HEADS, 1, 1), COMPUTE)
    mean = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    lost = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    variance = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), COMPUTE)
    first = segment * segment_frames
    last = tl.minimum(first + segment_frames, frames)
    for frame_start in range(first, last, BLOCK_FRAMES):
        frame, exists, real = _frames(
            frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        raw = tl.load(
            _tile(h_ptr, bag, channel, frame, h_strides, WIDE), mask=inside & exists, other=0
        ).to(COMPUTE)
        x = tl.where(real, raw, 0.0)
        scores_tile = _tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = _score(x, query, scores_tile, has_head & exists, COMPUTE, GIVEN)
        score = tl.where(real, score, -float("inf"))
        top = tl.ceil(tl.max(score * _LOG2_E, 2, keep_dims=True))
        joint_peak = tl.maximum(peak, top)
        scale = tl.exp2(peak - joint_peak)
        peak = joint_peak
        weight = _exponential(score, peak)
        here = tl.sum(weight, 2, keep_dims=True)
        before = (total + total_lost) * scale
        joint = before + here
        divisor = tl.where(joint == 0, 1.0, joint)
        total, total_lost = _add(total * scale, total_lost * scale, here)
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


@triton.jit
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
    head, in_head, bag = _where(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
    has_head = head < heads
    inside = has_head & (in_head < width)
    cells = tl.cast(bags, tl.int64)
    channels = heads * width
    of_head = partial_normaliser_ptr + tl.cast(bag, tl.int64) * heads + head
    of_channel = partial_moments_ptr + tl.cast(bag, tl.int64) * channels + head * width + in_head
    peak = tl.full((BLOCK_HEADS, 1, 1), _LOWEST, tl.float64)
    total = tl.zeros((BLOCK_HEADS, 1, 1), tl.float64)
    mean = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    lost = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    variance = tl.zeros((BLOCK_HEADS, BLOCK_WIDTH, 1), tl.float64)
    for segment in range(segments):
        part = tl.cast(segment, tl.int64) * cells
        there = of_head + 2 * part * heads
        peak_b = tl.load(there, mask=has_head, other=_LOWEST).to(tl.float64)
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
    varies = variance > eps
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
    return tl.where(has_head & real, _exponential(score, peak) / total, 0.0)


@triton.jit
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
    COMPUTE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Elementwise in the frames once their scores' gradients are there: those are summed over the
    tile, or read where a head is CUT into several tiles."""
    head, in_head, rest = _where(tl.program_id(0), heads, width, BLOCK_HEADS, BLOCK_WIDTH)
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
    first = walk * walk_frames
    last = tl.minimum(first + walk_frames, frames)
    for frame_start in range(first, last, BLOCK_FRAMES):
        frame, exists, real = _frames(
            frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        raw = tl.load(
            _tile(h_ptr, bag, channel, frame, h_strides, WIDE), mask=inside & exists, other=0
        ).to(COMPUTE)
        x = tl.where(real, raw, 0.0)
        residual = (x - mean) - lost
        scores_tile = _tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = _score(x, query, scores_tile, has_head & exists, COMPUTE, GIVEN)
        weight = _weight(score, normaliser_ptr, bag, bags, head, heads, real)
        to_score = tl.zeros_like(weight)
        if CUT and QUERY:
            slopes_tile = _tile(slopes_ptr, bag, head, frame, slopes_strides, WIDE)
            to_score = tl.load(slopes_tile, mask=has_head & exists, other=0)
        elif not CUT:
            to_score = weight * _score_slope(residual, variance, direct, curve, inside)
            to_score = tl.where(real, to_score, 0.0)
        if WRITES_SCORES:
            tile = _tile(scores_gradient_ptr, bag, head, frame, scores_gradient_strides, WIDE)
            tl.store(tile, to_score, mask=has_head & exists)
        if WRITES_H:
            gradient = weight * (direct + curve * residual)
            if QUERY:
                gradient += to_score * query
            gradient = tl.where(real, gradient, 0.0)
            tile = _tile(h_gradient_ptr, bag, channel, frame, h_gradient_strides, WIDE)
            tl.store(tile, gradient, mask=inside & exists)
        if WRITES_QUERY:
            query_sum += tl.sum(to_score * residual, 2, keep_dims=True)
    if WRITES_QUERY:
        row = tl.cast(rest, tl.int64) * heads * width
        tl.store(query_parts_ptr + row + channel, query_sum, mask=inside)


@triton.jit
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
    frame, exists, real = _frames(
        frame_start, frames, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
    )
    score = tl.zeros((1, 1, BLOCK_FRAMES), COMPUTE)
    slope = tl.zeros((1, 1, BLOCK_FRAMES), COMPUTE)
    for start in range(0, width, BLOCK_WIDTH):
        in_head = start + tl.arange(0, BLOCK_WIDTH)[None, :, None]
        inside = in_head < width
        channel = head * width + in_head
        raw = tl.load(
            _tile(h_ptr, bag, channel, frame, h_strides, WIDE), mask=inside & exists, other=0
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
        tile = _tile(scores_ptr, bag, head, frame, scores_strides, WIDE)
        score = tl.load(tile, mask=exists, other=0).to(COMPUTE)
    else:
        tile = _tile(own_scores_ptr, bag, head, frame, own_scores_strides, WIDE)
        tl.store(tile, score, mask=exists)
    if SLOPES:
        weight = _weight(score, normaliser_ptr, bag, bags, head, heads, real)
        tile = _tile(slopes_ptr, bag, head, frame, slopes_strides, WIDE)
        tl.store(tile, tl.where(real, weight * slope, 0.0), mask=exists)


@triton.jit
def _statistics_sum_kernel(
    parts_ptr,
    query_gradient_ptr,
    rows,
    channels,
    COMPUTE: tl.constexpr,
):
    """The query's gradient: what every program of the backward pass gave to it, in order."""
    channel = tl.program_id(0) * SUM_CHANNELS + tl.arange(0, SUM_CHANNELS)
    total = tl.zeros((SUM_CHANNELS,), COMPUTE)
    lost = tl.zeros((SUM_CHANNELS,), COMPUTE)
    for start in range(0, rows, SUM_ROWS):
        row = (start + tl.arange(0, SUM_ROWS)).to(tl.int64)[:, None]
        inside = (row < rows) & (channel < channels)[None, :]
        part = tl.load(parts_ptr + row * channels + channel[None, :], mask=inside, other=0)
        total, lost = _add(total, lost, tl.sum(part, 0))
    tl.store(query_gradient_ptr + channel, total + lost, mask=channel < channels)
