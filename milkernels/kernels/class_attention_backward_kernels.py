"""Attention whose scores are normalised over the classes, in Triton: the backward kernel, and the
one that goes over more classes than a tile holds."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import class_attention_kernels as kernels
from milkernels.kernels import formula, jit, tiles

#: Stands for -inf as the peak of nothing: differences of it stay numbers.
_LOWEST = tl.constexpr(-1.0e38)


@triton.jit
def _constants(
    gradient_ptr,
    statistics_ptr,
    bag,
    bags,
    classes,
    class_index,
    has_class,
    gradient_strides,
    COMPUTE: tl.constexpr,
):
    """g / W and y of a block of classes, as columns."""
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    gradient = tl.load(address, mask=has_class, other=0).to(COMPUTE)
    cells = tl.cast(bags, tl.int64) * classes
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    total = tl.load(cell + kernels.TOTAL * cells, mask=has_class, other=1)
    average = tl.load(cell + kernels.AVERAGE * cells, mask=has_class, other=0)
    return (gradient / total)[:, None], average[:, None]


@triton.jit
def _sent_back(share, x, scale, average):
    """What y sends back to a share: nothing past the clamp."""
    return tl.where(share >= kernels.FLOOR, scale * (x - average), 0.0)


@jit.kernel
def _class_attention_backward_kernel(
    gradient_ptr,
    x_ptr,
    scores_ptr,
    mask_ptr,
    frames_ptr,
    statistics_ptr,
    x_gradient_ptr,
    scores_gradient_ptr,
    bags,
    classes,
    frames,
    walk_frames,
    gradient_strides,
    x_strides,
    scores_strides,
    mask_strides,
    x_gradient_strides,
    scores_gradient_strides,
    ACTIVATION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
    TO_X: tl.constexpr,
    TO_SCORES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Frame by frame: with p a class's share, W its bag's sum of weights, r = x - y and q = g r / W
    (0 where p was clamped), dx = g w / W and ds = a'(s) p (q - Σ_c p q)."""
    bag, class_start, first, last = tiles.backward_walk(
        tl.program_id(0), classes, frames, walk_frames, BLOCK_CLASSES
    )
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    scale, average = _constants(
        gradient_ptr,
        statistics_ptr,
        bag,
        bags,
        classes,
        class_index,
        has_class,
        gradient_strides,
        COMPUTE,
    )
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED, ALIGNED
        )
        score = kernels.load_tile(
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
        raw = kernels.load_tile(
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
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        has_frame = frame < last
        activated = kernels.activated_scores(score, has_class, ACTIVATION)
        share = kernels.shares_of(activated, frames_ptr, bag, bags, frames, frame, has_frame, WHOLE)
        x, complement = formula.probability(raw, FROM_LOGITS)
        if TO_X:
            x_gradient = scale * tl.where(share < kernels.FLOOR, kernels.FLOOR, share)
            if FROM_LOGITS:
                x_gradient *= x * complement
            x_gradient_tile = tiles.pointers(
                x_gradient_ptr,
                bag,
                class_start,
                frame_start,
                x_gradient_strides,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
                WIDE,
                ALIGNED,
            )
            tl.store(x_gradient_tile, tl.where(real, x_gradient, 0.0), mask=inside)
        if TO_SCORES:
            back = _sent_back(share, x, scale, average)
            if WHOLE:
                dot = tl.sum(share * back, 0)
            else:
                address, row = kernels.frame_rows(frames_ptr, bag, bags, frames, frame)
                dot = tl.load(address + kernels.FRAME_DOT * row, mask=has_frame, other=0)
            slope = formula.activation_derivative(score, ACTIVATION)
            scores_gradient = slope * share * (back - dot[None, :])
            scores_gradient_tile = tiles.pointers(
                scores_gradient_ptr,
                bag,
                class_start,
                frame_start,
                scores_gradient_strides,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
                WIDE,
                ALIGNED,
            )
            tl.store(scores_gradient_tile, tl.where(real, scores_gradient, 0.0), mask=inside)


@jit.kernel
def _class_attention_frames_kernel(
    gradient_ptr,
    x_ptr,
    scores_ptr,
    mask_ptr,
    frames_ptr,
    statistics_ptr,
    bags,
    classes,
    frames,
    gradient_strides,
    x_strides,
    scores_strides,
    mask_strides,
    ACTIVATION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BACKWARD: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """What the softmax of a block of frames needs to know of all classes: block after block of
    them, and for the backward pass once more."""
    frame_blocks = tl.cdiv(frames, BLOCK_FRAMES)
    frame_start = tl.program_id(0) % frame_blocks * BLOCK_FRAMES
    bag = tl.program_id(0) // frame_blocks
    frame = frame_start + tl.arange(0, BLOCK_FRAMES)
    has_frame = frame < frames
    peak = tl.full((BLOCK_FRAMES,), _LOWEST, COMPUTE)
    total = tl.zeros((BLOCK_FRAMES,), COMPUTE)
    for class_start in range(0, classes, BLOCK_CLASSES):
        has_class = class_start + tl.arange(0, BLOCK_CLASSES) < classes
        inside, real = tiles.inside_and_real(
            has_class,
            frame_start,
            frames,
            mask_ptr,
            bag,
            mask_strides,
            BLOCK_FRAMES,
            MASKED,
            ALIGNED,
        )
        score = kernels.load_tile(
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
        activated = kernels.activated_scores(score, has_class, ACTIVATION)
        higher = tl.maximum(peak, tl.max(activated, 0))
        here = tl.sum(formula.exponential(activated - higher[None, :]), 0)
        total = total * formula.exponential(peak - higher) + here
        peak = higher
    address, row = kernels.frame_rows(frames_ptr, bag, bags, frames, frame)
    tl.store(address + kernels.FRAME_PEAK * row, peak, mask=has_frame)
    tl.store(address + kernels.FRAME_TOTAL * row, total, mask=has_frame)
    if BACKWARD:
        dot = tl.zeros((BLOCK_FRAMES,), COMPUTE)
        for class_start in range(0, classes, BLOCK_CLASSES):
            class_index = class_start + tl.arange(0, BLOCK_CLASSES)
            has_class = class_index < classes
            scale, average = _constants(
                gradient_ptr,
                statistics_ptr,
                bag,
                bags,
                classes,
                class_index,
                has_class,
                gradient_strides,
                COMPUTE,
            )
            inside, real = tiles.inside_and_real(
                has_class,
                frame_start,
                frames,
                mask_ptr,
                bag,
                mask_strides,
                BLOCK_FRAMES,
                MASKED,
                ALIGNED,
            )
            score = kernels.load_tile(
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
            raw = kernels.load_tile(
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
            activated = kernels.activated_scores(score, has_class, ACTIVATION)
            share = formula.exponential(activated - peak[None, :]) / total[None, :]
            x, _ = formula.probability(raw, FROM_LOGITS)
            dot += tl.sum(share * _sent_back(share, x, scale, average), 0)
        tl.store(address + kernels.FRAME_DOT * row, dot, mask=has_frame)
