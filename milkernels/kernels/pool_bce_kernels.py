"""Pooling, binary cross-entropy and their gradient in one kernel.

A program owns a bag's block of classes. With HELD a tile holds all of its frames, which are read
once; else it walks through them a second time, for the gradient, when they come from a cache.

Arguments that belong together travel as tuples: `place` is (bag, class_start), `labels` what
`cross_entropy.of_cells` reads and where it writes the losses.
"""

import triton
import triton.language as tl

from milkernels.kernels import (
    cross_entropy,
    formula,
    log_mean_exp,
    maximum,
    moments,
    noisy_or,
    tiles,
)
from milkernels.kernels import log_mean_exp_sums as states
from milkernels.kernels import weighted_average_kernels as averages


@triton.jit
def _place(classes, BLOCK_CLASSES: tl.constexpr):
    """A program's bag, first class, which of its classes exist, and their cells."""
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    bag = tl.program_id(0) // class_blocks
    class_start = tl.program_id(0) % class_blocks * BLOCK_CLASSES
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    return bag, class_start, class_index, class_index < classes, cell


@triton.jit
def _read(
    x,
    mask,
    place,
    frame_start,
    frames,
    has_class,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile's raw values, masked frames 0, and which frames there are and which are real."""
    bag, class_start = place
    x_ptr, strides = x
    mask_ptr, mask_strides = mask
    inside, real = tiles.inside_and_real(
        has_class, frame_start, frames, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
    )
    tile = tiles.pointers(
        x_ptr, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    raw = tl.load(tile, mask=inside, other=0).to(COMPUTE)
    return tl.where(real, raw, 0.0), inside, real


@triton.jit
def _write(
    x_gradient,
    place,
    frame_start,
    gradient,
    inside,
    real,
    WIDE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile's gradient, 0 for masked frames."""
    bag, class_start = place
    pointer, strides = x_gradient
    tile = tiles.pointers(
        pointer, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    gradient = cross_entropy.saturated(tl.where(real, gradient, 0.0), pointer)
    tl.store(tile, gradient, mask=inside)


@triton.jit
def _read_scores(
    scores,
    raw,
    inside,
    real,
    place,
    frame_start,
    FORMULA: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile's scores, masked frames 0; without scores, the raw values again."""
    score = raw
    if FORMULA.scores:
        bag, class_start = place
        pointer, strides = scores
        tile = tiles.pointers(
            pointer, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        score = tl.load(tile, mask=inside, other=0).to(COMPUTE)
        score = tl.where(real, score, 0.0)
    return score


@triton.jit
def _weighted_average_bce_kernel(
    x_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    mask_ptr,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    x_gradient_ptr,
    scores_gradient_ptr,
    shares_ptr,
    bags,
    classes,
    frames,
    x_strides,
    scores_strides,
    mask_strides,
    x_gradient_strides,
    scores_gradient_strides,
    FORMULA: tl.constexpr,
    LABELS: tl.constexpr,
    HELD: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    bag, class_start, class_index, has_class, cell = _place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    scores = (scores_ptr, scores_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    scores_gradient = (scores_gradient_ptr, scores_gradient_strides)
    power = averages._coefficient(power_ptr, class_index, has_class, FORMULA.power, COMPUTE)
    alpha = averages._coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, COMPUTE)
    raw, inside, real = _read(
        x,
        mask,
        place,
        0,
        frames,
        has_class,
        FORMULA.masked,
        WIDE,
        COMPUTE,
        BLOCK_CLASSES,
        BLOCK_FRAMES,
    )
    score = _read_scores(
        scores, raw, inside, real, place, 0, FORMULA, WIDE, COMPUTE, BLOCK_CLASSES, BLOCK_FRAMES
    )
    state = moments.empty(BLOCK_CLASSES, COMPUTE)
    here = averages._state_of_tile(raw, score, real, alpha, power, FORMULA, BLOCK_CLASSES, COMPUTE)
    state = moments.merge(state, here)
    if not HELD:
        for frame_start in range(BLOCK_FRAMES, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                FORMULA.masked,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            score = _read_scores(
                scores,
                raw,
                inside,
                real,
                place,
                frame_start,
                FORMULA,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            here = averages._state_of_tile(
                raw, score, real, alpha, power, FORMULA, BLOCK_CLASSES, COMPUTE
            )
            state = moments.merge(state, here)
    y = moments.average(state)
    peak, total = moments.normaliser(state)
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
        FORMULA.from_logits,
    )
    shares = shares_ptr + cell
    if FORMULA.variance:
        tl.store(shares, gradient * state[3], mask=has_class)
        shares += tl.cast(bags, tl.int64) * classes
    if FORMULA.covariance:
        tl.store(shares, gradient * state[5] * formula.LN_2, mask=has_class)
    scale = (gradient / total)[:, None]
    y = y[:, None]
    peak = peak[:, None]
    if HELD:
        to_x, to_scores = averages._gradients_of_tile(
            raw, score, scale, y, peak, alpha, power, FORMULA
        )
        _write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
        if FORMULA.scores:
            _write(
                scores_gradient,
                place,
                0,
                to_scores,
                inside,
                real,
                WIDE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
    else:
        for frame_start in range(0, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
                x,
                mask,
                place,
                frame_start,
                frames,
                has_class,
                FORMULA.masked,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            score = _read_scores(
                scores,
                raw,
                inside,
                real,
                place,
                frame_start,
                FORMULA,
                WIDE,
                COMPUTE,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
            )
            to_x, to_scores = averages._gradients_of_tile(
                raw, score, scale, y, peak, alpha, power, FORMULA
            )
            _write(
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
            if FORMULA.scores:
                _write(
                    scores_gradient,
                    place,
                    frame_start,
                    to_scores,
                    inside,
                    real,
                    WIDE,
                    BLOCK_CLASSES,
                    BLOCK_FRAMES,
                )


@triton.jit
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
    bag, class_start, _, has_class, cell = _place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    value = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    index = tl.full((BLOCK_CLASSES,), -1, tl.int64)
    for frame_start in range(0, frames, BLOCK_FRAMES):
        raw, inside, real = _read(
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
    slope = y * complement if FROM_LOGITS else tl.full((BLOCK_CLASSES,), 1.0, COMPUTE)
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
        False,
    )
    gradient *= slope
    for frame_start in range(0, frames, BLOCK_FRAMES):
        frame = frame_start + tl.arange(0, BLOCK_FRAMES)
        inside = has_class[:, None] & (frame < frames)[None, :]
        is_peak = index[:, None] == frame[None, :]
        to_x = tl.where(is_peak, gradient[:, None], 0.0)
        x_gradient = (x_gradient_ptr, x_gradient_strides)
        _write(
            x_gradient, place, frame_start, to_x, inside, inside, WIDE, BLOCK_CLASSES, BLOCK_FRAMES
        )


@triton.jit
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
    bag, class_start, _, has_class, cell = _place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    high = tl.full((BLOCK_CLASSES, BLOCK_FRAMES), 1.0, COMPUTE)
    low = tl.zeros((BLOCK_CLASSES, BLOCK_FRAMES), COMPUTE)
    exponent = low
    ones = low
    raw, inside, real = _read(
        x, mask, place, 0, frames, has_class, MASKED, WIDE, COMPUTE, BLOCK_CLASSES, BLOCK_FRAMES
    )
    high, low, exponent, ones = noisy_or._times_tile(
        high, low, exponent, ones, raw, real, FROM_LOGITS
    )
    if not HELD:
        for frame_start in range(BLOCK_FRAMES, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
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
    gradient = cross_entropy.of_cells(
        noisy_or._bag_value(high, low, exponent, ones),
        tl.where(ones > 0, 0.0, (high + low) * tl.exp2(exponent)),
        target_ptr,
        weight_ptr,
        known_ptr,
        scale_ptr,
        loss_ptr,
        cell,
        has_class,
        LABELS,
        False,
    )
    scaled = gradient * tl.where(ones > 1, 0.0, high + low)
    if HELD:
        to_x = noisy_or._gradient_of_tile(raw, scaled, exponent, ones == 1, FROM_LOGITS)
        _write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
    else:
        for frame_start in range(0, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
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
            _write(
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


@triton.jit
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
    bag, class_start, class_index, has_class, cell = _place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    size, sign, inverse = log_mean_exp._sharpness(sharpness_ptr, class_index, has_class, COMPUTE)
    raw, inside, real = _read(
        x, mask, place, 0, frames, has_class, MASKED, WIDE, COMPUTE, BLOCK_CLASSES, BLOCK_FRAMES
    )
    state = log_mean_exp._state_of_tile(raw, real, size, sign, inverse, FROM_LOGITS, True)
    if not HELD:
        for frame_start in range(BLOCK_FRAMES, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
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
    )
    tl.store(shares_ptr + cell, gradient * learned, mask=has_class)
    scale = gradient / total
    if HELD:
        to_x = log_mean_exp._gradient_of_tile(raw, real, size, sign, reference, scale, FROM_LOGITS)
        _write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
    else:
        for frame_start in range(0, frames, BLOCK_FRAMES):
            raw, inside, real = _read(
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
            _write(
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
