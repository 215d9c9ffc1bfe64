"""Attention whose scores are normalised over the classes, in Triton: its kernels.

A tile holds all classes of a few frames, so that a frame's softmax is one reduction of it. Where
there are too many classes for that, `_class_attention_frames_kernel`, among the backward kernels,
goes over them first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels import family
from milkernels.kernels import formula, jit, moments, sums, tiles

#: Rows of the statistics (rows, bags, classes): the weights' sum and the average.
TOTAL = tl.constexpr(0)
AVERAGE = tl.constexpr(1)

#: Rows of what is known of frames (rows, bags, frames): peak and sum of the softmax, and backward
#: the sum over the classes of share · what is sent back to it.
FRAME_PEAK = tl.constexpr(0)
FRAME_TOTAL = tl.constexpr(1)
FRAME_DOT = tl.constexpr(2)

FLOOR = tl.constexpr(family.SHARE_FLOOR)


@triton.jit
def load_tile(
    pointer,
    bag,
    class_start,
    frame_start,
    strides,
    inside,
    real,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile of a frame tensor, masked frames 0."""
    tile = tiles.pointers(
        pointer, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE, ALIGNED
    )
    return tl.where(real, tl.load(tile, mask=inside, other=0).to(COMPUTE), 0.0)


@triton.jit
def activated_scores(score, has_class, ACTIVATION: tl.constexpr):
    """Scores after their activation; classes that are not there have no share."""
    return tl.where(has_class[:, None], formula.activate(score, ACTIVATION), -float("inf"))


@triton.jit
def frame_rows(pointer, bag, bags, frames, frame):
    """Addresses of what is known of a bag's frames, and the distance of its rows."""
    row = tl.cast(bag, tl.int64) * frames + frame
    return pointer + row, tl.cast(bags, tl.int64) * frames


@triton.jit
def shares_of(
    activated,
    frames_ptr,
    bag,
    bags,
    frames,
    frame,
    has_frame,
    WHOLE: tl.constexpr,
):
    """Each class's share of the softmax at its frame."""
    if WHOLE:
        peak = tl.max(activated, 0)
        exponential = formula.exponential(activated - peak[None, :])
        total = tl.sum(exponential, 0)
    else:
        address, row = frame_rows(frames_ptr, bag, bags, frames, frame)
        peak = tl.load(address + FRAME_PEAK * row, mask=has_frame, other=0)
        total = tl.load(address + FRAME_TOTAL * row, mask=has_frame, other=1)
        exponential = formula.exponential(activated - peak[None, :])
    return exponential / total[None, :]


@triton.jit
def _finish(total, mean, y_ptr, statistics_ptr, cell, cells, inside):
    """Write bag values and statistics: the total of a bag of nothing takes its gradients to 0."""
    nothing = total == 0
    mean = tl.where(nothing, 0.0, mean)
    tl.store(y_ptr + cell, mean, mask=inside)
    row = statistics_ptr + cell
    tl.store(row + TOTAL * cells, tl.where(nothing, float("inf"), total), mask=inside)
    tl.store(row + AVERAGE * cells, mean, mask=inside)


@jit.kernel
def _class_attention_forward_kernel(
    x_ptr,
    scores_ptr,
    mask_ptr,
    frames_ptr,
    y_ptr,
    statistics_ptr,
    partial_ptr,
    bags,
    classes,
    frames,
    segment_frames,
    x_strides,
    scores_strides,
    mask_strides,
    ACTIVATION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes: of all classes, with WHOLE."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK_CLASSES
    )
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    total = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    total_lost = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    product = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    product_lost = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    low = tl.full((BLOCK_CLASSES,), float("inf"), COMPUTE)
    high = tl.full((BLOCK_CLASSES,), -float("inf"), COMPUTE)
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED, ALIGNED
        )
        score = load_tile(
            scores_ptr,
            bag,
            class_start,
            frame_start,
            scores_strides,
            inside,
            real,
            WIDE,
            ALIGNED,
            COMPUTE,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
        )
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        activated = activated_scores(score, has_class, ACTIVATION)
        share = shares_of(activated, frames_ptr, bag, bags, frames, frame, frame < last, WHOLE)
        weight = tl.where(real, tl.where(share < FLOOR, FLOOR, share), 0.0)
        total, total_lost = sums.add(total, total_lost, tl.sum(weight, 1))
        raw = load_tile(
            x_ptr,
            bag,
            class_start,
            frame_start,
            x_strides,
            inside,
            real,
            WIDE,
            ALIGNED,
            COMPUTE,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
        )
        x, _ = formula.probability(raw, FROM_LOGITS)
        product, product_lost = sums.add(product, product_lost, tl.sum(weight * x, 1))
        low = tl.minimum(low, tl.min(tl.where(real, x, float("inf")), 1))
        high = tl.maximum(high, tl.max(tl.where(real, x, -float("inf")), 1))
    total += total_lost
    product += product_lost
    mean = moments.held(product / tl.where(total == 0, 1.0, total), low, high)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * 2 * cells + cell
        tl.store(part, total, mask=has_class)
        tl.store(part + cells, mean, mask=has_class)
    else:
        _finish(total, mean, y_ptr, statistics_ptr, cell, cells, has_class)


@jit.kernel
def _class_attention_merge_kernel(
    partial_ptr,
    y_ptr,
    statistics_ptr,
    cells,
    segments,
    COMPUTE: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join a bag's segments, in order. A mean of means lies between them."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row = tl.cast(cells, tl.int64)
    total = tl.zeros((BLOCK_CELLS,), COMPUTE)
    total_lost = tl.zeros((BLOCK_CELLS,), COMPUTE)
    product = tl.zeros((BLOCK_CELLS,), COMPUTE)
    product_lost = tl.zeros((BLOCK_CELLS,), COMPUTE)
    low = tl.full((BLOCK_CELLS,), float("inf"), COMPUTE)
    high = tl.full((BLOCK_CELLS,), -float("inf"), COMPUTE)
    for segment in range(segments):
        part = partial_ptr + segment * 2 * row + cell
        total_here = tl.load(part, mask=inside, other=0)
        mean = tl.load(part + row, mask=inside, other=0)
        has_weight = total_here != 0
        mean = tl.where(has_weight, mean, 0.0)
        total, total_lost = sums.add(total, total_lost, total_here)
        product, product_lost = sums.add(product, product_lost, total_here * mean)
        low = tl.where(has_weight, tl.minimum(low, mean), low)
        high = tl.where(has_weight, tl.maximum(high, mean), high)
    total += total_lost
    product += product_lost
    mean = moments.held(product / tl.where(total == 0, 1.0, total), low, high)
    _finish(total, mean, y_ptr, statistics_ptr, cell, row, inside)
