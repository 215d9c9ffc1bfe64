"""Pooling, binary cross-entropy and their gradient in one kernel.

A program owns a bag's block of classes. With HELD a block holds all of its frames, which are read
once; else it walks through them a second time, for the gradient, when they come from a cache.
"""

import triton
import triton.language as tl

from milkernels.kernels import cross_entropy, formula, jit, lanes
from milkernels.kernels import log_mean_exp_frames as log_mean_exp
from milkernels.kernels import log_mean_exp_sums as states
from milkernels.kernels import maximum_frames as maximum
from milkernels.kernels import noisy_or_frames as noisy_or


@triton.jit
def place_of(classes, BLOCK: tl.constexpr):
    """A program's place, its classes, which of them exist, and their cells."""
    class_blocks = tl.cdiv(classes, BLOCK.classes)
    bag = tl.program_id(0) // class_blocks
    class_start = tl.program_id(0) % class_blocks * BLOCK.classes
    class_index = class_start + tl.arange(0, BLOCK.classes)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    return (bag, class_start, classes), class_index, class_index < classes, cell


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
    BLOCK: tl.constexpr,
):
    """The gradient is that of the largest frame, whose value is known: no frame is read again."""
    place, _, has_class, cell = place_of(classes, BLOCK)
    x, mask = (x_ptr, x_strides), (mask_ptr, mask_strides)
    value, index, _ = maximum.largest_of_frames(
        x, mask, place, 0, frames, FROM_LOGITS, False, MASKED, BLOCK
    )
    y, complement = formula.faint_probability(value, FROM_LOGITS)
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
    maximum.write_gradients(
        (index, gradient, gradient),
        x,
        mask,
        (x_gradient_ptr, x_gradient_strides),
        place,
        0,
        frames,
        FROM_LOGITS,
        False,
        False,
        BLOCK,
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
    BLOCK: tl.constexpr,
):
    place, _, has_class, cell = place_of(classes, BLOCK)
    x, mask = (x_ptr, x_strides), (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    if HELD:
        inside, real = lanes.inside_and_real(mask, place, 0, frames, BLOCK, False, MASKED)
        raw = lanes.read(x, place, 0, inside, BLOCK)
        state = noisy_or.empty(BLOCK)
        state = noisy_or.with_block(state, raw, real, False, FROM_LOGITS, BLOCK)
        high, low, exponent, ones = noisy_or.joined(state, BLOCK)
    else:
        high, low, exponent, ones = noisy_or.product_of_frames(
            x, mask, place, 0, frames, FROM_LOGITS, MASKED, BLOCK
        )
    y = noisy_or.bag_value(high, low, exponent, ones)
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
    known = noisy_or.known_of_bag(gradient * factor, exponent, ones == 1)
    if HELD:
        to_x = noisy_or.gradient_of_tile(raw, known, FROM_LOGITS)
        lanes.write(x_gradient, place, 0, tl.where(real, to_x, 0.0), inside, BLOCK)
    else:
        noisy_or.write_gradients(
            known, x, mask, x_gradient, place, 0, frames, FROM_LOGITS, MASKED, BLOCK
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
    BLOCK: tl.constexpr,
):
    place, class_index, has_class, cell = place_of(classes, BLOCK)
    x, mask = (x_ptr, x_strides), (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    sharpness = log_mean_exp.sharpness_of(sharpness_ptr, class_index, has_class, BLOCK.compute)
    size, sign, inverse = sharpness
    if HELD:
        inside, real = lanes.inside_and_real(mask, place, 0, frames, BLOCK, False, MASKED)
        raw = lanes.read(x, place, 0, inside, BLOCK)
        state = states.empty(lanes.zeros(BLOCK))
        state = log_mean_exp.with_block(
            state, raw, real, sharpness, False, FROM_LOGITS, True, BLOCK
        )
        state = states.joined(state, size, inverse, True, 1)
    else:
        state = log_mean_exp.sums_of_frames(
            x, mask, place, 0, frames, sharpness, FROM_LOGITS, MASKED, True, BLOCK
        )
    y, reference, total, learned = log_mean_exp.finished(state, size, sign, inverse, True)
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
    known = log_mean_exp.known_of_bag(size, sign, reference, gradient / total)
    if HELD:
        to_x = log_mean_exp.gradient_of_tile(raw, known, FROM_LOGITS)
        lanes.write(x_gradient, place, 0, tl.where(real, to_x, 0.0), inside, BLOCK)
    else:
        log_mean_exp.write_gradients(
            known, x, mask, x_gradient, place, 0, frames, FROM_LOGITS, MASKED, BLOCK
        )
