"""A weighted average, binary cross-entropy and their gradient in one kernel: see
`pool_bce_kernels`."""

import triton
import triton.language as tl

from milkernels.kernels import cross_entropy, formula, jit, moments, tiles
from milkernels.kernels import pool_bce_tiles as tile_of
from milkernels.kernels import weighted_average_frames as averages


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


@jit.kernel
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
    bag, class_start, class_index, has_class, cell = tile_of.place(classes, BLOCK_CLASSES)
    place = (bag, class_start)
    x = (x_ptr, x_strides)
    scores = (scores_ptr, scores_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    scores_gradient = (scores_gradient_ptr, scores_gradient_strides)
    power = averages.coefficient(power_ptr, class_index, has_class, FORMULA.power, COMPUTE)
    alpha = averages.coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, COMPUTE)
    raw, inside, real = tile_of.read(
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
            raw, inside, real = tile_of.read(
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
        cross_entropy.VALUE,
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
        tile_of.write(x_gradient, place, 0, to_x, inside, real, WIDE, BLOCK_CLASSES, BLOCK_FRAMES)
        if FORMULA.scores:
            tile_of.write(
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
            raw, inside, real = tile_of.read(
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
            if FORMULA.scores:
                tile_of.write(
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
