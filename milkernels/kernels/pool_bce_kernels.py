"""Pooling, binary cross-entropy and their gradient in one kernel.

A program owns a bag's block of classes. With HELD a tile holds all of its frames, which are read
once; else it walks through them a second time, for the gradient, when they come from a cache.
"""

import triton.language as tl

from milkernels.kernels import cross_entropy, formula, jit
from milkernels.kernels import log_mean_exp_frames as log_mean_exp
from milkernels.kernels import log_mean_exp_sums as states
from milkernels.kernels import maximum_frames as maximum
from milkernels.kernels import noisy_or_frames as noisy_or
from milkernels.kernels import pool_bce_tiles as tile_of


@jit.kernel
def _maximum_bce_kernel(
    x_ptr,
    mask_ptr,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    x_gradient_ptr,
    bags,
    classes,
    frames,
    x_strides,
    mask_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LABELS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """The gradient is that of the largest frame, whose value is known: no frame is read again."""
    bag, class_start, _, has_class, cell = tile_of.place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    value = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    index = tl.full((BLOCK_CLASSES,), -1, tl.int64)
    for frame_start in range(0, frames, BLOCK_FRAMES):
        raw, inside, real = tile_of.read(
            x,
            mask,
            place,
            frame_start,
            frames,
            has_class,
            MASKED,
            WIDE,
            COMPUTE,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
        )
        here, here_index = maximum._of_tile(raw, real, frame_start, BLOCK_FRAMES)
        value, index = maximum._first_larger(value, index, here, here_index)
    y, complement = formula.probability(value, FROM_LOGITS)
    gradient = cross_entropy.of_cells(
        tl.where(index < 0, 0.0, y),
        tl.where(index < 0, 1.0, complement),
        target_ptr,
        weight_ptr,
        known_ptr,
        scale_ptr,
        loss_ptr,
        cell,
        has_class,
        LABELS,
        FROM_LOGITS,
        cross_entropy.LOGIT if FROM_LOGITS else cross_entropy.VALUE,
    )
    for frame_start in range(0, frames, BLOCK_FRAMES):
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        inside = has_class[:, None] & (frame < frames)[None, :]
        is_peak = index[:, None] == frame[None, :]
        to_x = tl.where(is_peak, gradient[:, None], 0.0)
        x_gradient = (x_gradient_ptr, x_gradient_strides)
        tile_of.write(
            x_gradient, place, frame_start, to_x, inside, inside, WIDE, BLOCK_CLASSES, BLOCK_FRAMES
        )


@jit.kernel
def _noisy_or_bce_kernel(
    x_ptr,
    mask_ptr,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    x_gradient_ptr,
    bags,
    classes,
    frames,
    x_strides,
    mask_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LABELS: tl.constexpr,
    HELD: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    bag, class_start, _, has_class, cell = tile_of.place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    high = tl.full((BLOCK_CLASSES, BLOCK_FRAMES), 1.0, COMPUTE)
    low = tl.zeros((BLOCK_CLASSES, BLOCK_FRAMES), COMPUTE)
    exponent = low
    ones = low
    raw, inside, real = tile_of.read(
        x, mask, place, 0, frames, has_class, MASKED, WIDE, COMPUTE, BLOCK_CLASSES, BLOCK_FRAMES
    )
    high, low, exponent, ones = noisy_or._times_tile(
        high, low, exponent, ones, raw, real, FROM_LOGITS
    )
    if not HELD:
        for frame_start in range(BLOCK_FRAMES, frames, BLOCK_FRAMES):
            raw, inside, real = tile_of.read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                MASKED,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            high, low, exponent, ones = noisy_or._times_tile(
                high, low, exponent, ones, raw, real, FROM_LOGITS
            )
    high, low, exponent = noisy_or._over_frames(high, low, exponent, BLOCK_CLASSES, LEVELS)
    ones = tl.sum(ones, 1)
    y = noisy_or._bag_value(high, low, exponent, ones)
    factor = tl.where(ones > 1, 0.0, high + low)
    complement, factor, exponent = noisy_or.survival(factor, exponent, ones)
    gradient = cross_entropy.of_cells(
        y,
        complement,
        target_ptr,
        weight_ptr,
        known_ptr,
        scale_ptr,
        loss_ptr,
        cell,
        has_class,
        LABELS,
        FROM_LOGITS,
        cross_entropy.SURVIVAL,
    )
    scaled = gradient * factor
    if HELD:
        to_x = noisy_or._gradient_of_tile(raw, scaled, exponent, ones == 1, FROM_LOGITS)
        tile_of.write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
    else:
        for frame_start in range(0, frames, BLOCK_FRAMES):
            raw, inside, real = tile_of.read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                MASKED,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            to_x = noisy_or._gradient_of_tile(raw, scaled, exponent, ones == 1, FROM_LOGITS)
            tile_of.write(
                x_gradient,
                place,
                frame_start,
                to_x,
                inside,
                real,
                WIDE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )


@jit.kernel
def _log_mean_exp_bce_kernel(
    x_ptr,
    sharpness_ptr,
    mask_ptr,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    x_gradient_ptr,
    shares_ptr,
    bags,
    classes,
    frames,
    x_strides,
    mask_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    LABELS: tl.constexpr,
    HELD: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    bag, class_start, class_index, has_class, cell = tile_of.place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    size, sign, inverse = log_mean_exp.sharpness_of(sharpness_ptr, class_index, has_class, COMPUTE)
    raw, inside, real = tile_of.read(
        x, mask, place, 0, frames, has_class, MASKED, WIDE, COMPUTE, BLOCK_CLASSES, BLOCK_FRAMES
    )
    state = log_mean_exp._state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS, True)
    if not HELD:
        for frame_start in range(BLOCK_FRAMES, frames, BLOCK_FRAMES):
            raw, inside, real = tile_of.read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                MASKED,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            here = log_mean_exp._state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS, True)
            state = states.merge(state, here, size, inverse, True)
    y, reference, total, learned = log_mean_exp._finished(state, size, sign, inverse, True)
    gradient = cross_entropy.of_cells(
        y,
        1 - y,
        target_ptr,
        weight_ptr,
        known_ptr,
        scale_ptr,
        loss_ptr,
        cell,
        has_class,
        LABELS,
        FROM_LOGITS,
        cross_entropy.VALUE,
    )
    tl.store(shares_ptr + cell, gradient * learned, mask=has_class)
    scale = gradient / total
    if HELD:
        to_x = log_mean_exp._gradient_of_tile(raw, real, size, sign, reference, scale, FROM_LOGITS)
        tile_of.write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
    else:
        for frame_start in range(0, frames, BLOCK_FRAMES):
            raw, inside, real = tile_of.read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                MASKED,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            to_x = log_mean_exp._gradient_of_tile(
                raw, real, size, sign, reference, scale, FROM_LOGITS
            )
            tile_of.write(
                x_gradient,
                place,
                frame_start,
                to_x,
                inside,
                real,
                WIDE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
