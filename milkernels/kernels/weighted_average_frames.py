"""Weighted averages in Triton: what the kernels of padded and of packed bags share."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, moments, sums, tiles

#: Rows of the statistics (rows, bags, classes) that the forward pass leaves for the backward pass.
#: The learned parameters' covariances with y follow: alpha's, then power's.
PEAK = tl.constexpr(0)
TOTAL = tl.constexpr(1)
AVERAGE = tl.constexpr(2)
COVARIANCES = tl.constexpr(3)


@triton.jit
def coefficient(pointer, class_index, has_class, KIND: tl.constexpr, COMPUTE: tl.constexpr):
    """A coefficient of the log-weight, as a column of classes."""
    if KIND == formula.LEARNED:
        value = tl.load(pointer + class_index, mask=has_class, other=0).to(COMPUTE)
        return value[:, None]
    else:
        return tl.full(class_index.shape, 1.0, COMPUTE)[:, None]


@triton.jit
def _read_tile(
    x_ptr,
    scores_ptr,
    bag,
    class_start,
    frame_start,
    x_strides,
    scores_strides,
    inside,
    real,
    FORMULA: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """A tile's raw values and scores, masked frames 0; without scores, the raw values again."""
    x_tile = tiles.pointers(
        x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
    raw = tl.where(real, raw, 0.0)
    score = raw
    if FORMULA.scores:
        scores_tile = tiles.pointers(
            scores_ptr,
            bag,
            class_start,
            frame_start,
            scores_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        score = tl.load(scores_tile, mask=inside, other=0).to(COMPUTE)
        score = tl.where(real, score, 0.0)
    return raw, score


@triton.jit
def _state_of_tile(
    raw,
    score,
    real,
    alpha,
    power,
    FORMULA: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The moments of a tile's real frames."""
    x, _ = formula.probability(raw, FORMULA.from_logits)
    log2_x = formula.log2_x(raw, FORMULA)
    peak = tl.zeros((BLOCK_CLASSES,), COMPUTE)
    leader = peak + float("nan")
    if FORMULA.direct:
        weight = formula.direct_weight(x, score, FORMULA)
    else:
        log2_weight = formula.log2_weight(0.0, x, log2_x, score, alpha, power, FORMULA)
        log2_weight = tl.where(real, log2_weight, -float("inf"))
        top = tl.max(log2_weight, 1)
        leader = tl.max(tl.where(log2_weight == top[:, None], x, -float("inf")), 1)
        peak = tl.ceil(tl.where(top < moments.LOWEST, moments.LOWEST, top))
        log2_weight = formula.log2_weight(-peak[:, None], x, log2_x, score, alpha, power, FORMULA)
        weight = tl.exp2(tl.where(real, log2_weight, -float("inf")))
    return moments.of_tile(x, log2_x, weight, peak, leader, real, FORMULA)


@triton.jit
def sums_of_frames(
    x_ptr,
    scores_ptr,
    mask_ptr,
    bag,
    class_start,
    has_class,
    first,
    last,
    alpha,
    power,
    x_strides,
    scores_strides,
    mask_strides,
    FORMULA: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """State of some frames of a bag's block of classes."""
    state = moments.empty(BLOCK_CLASSES, COMPUTE)
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, FORMULA.masked
        )
        raw, score = _read_tile(
            x_ptr,
            scores_ptr,
            bag,
            class_start,
            frame_start,
            x_strides,
            scores_strides,
            inside,
            real,
            FORMULA,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
            COMPUTE,
        )
        here = _state_of_tile(raw, score, real, alpha, power, FORMULA, BLOCK_CLASSES, COMPUTE)
        state = moments.merge(state, here)
    return state


@triton.jit
def finish(state, y_ptr, statistics_ptr, cell, cells, inside, FORMULA: tl.constexpr):
    """Write the bag value and the statistics."""
    y = moments.average(state)
    peak, total = moments.normaliser(state)
    tl.store(y_ptr + cell, y, mask=inside)
    row = statistics_ptr + cell
    tl.store(row + PEAK * cells, peak, mask=inside)
    tl.store(row + TOTAL * cells, total, mask=inside)
    tl.store(row + AVERAGE * cells, y, mask=inside)
    if FORMULA.variance:
        tl.store(row + COVARIANCES * cells, state[3], mask=inside)
    if FORMULA.covariance:
        covariance = state[5] * formula.LN_2
        tl.store(row + (COVARIANCES + FORMULA.variance) * cells, covariance, mask=inside)


@triton.jit
def _gradients_of_tile(raw, score, scale, y, peak, alpha, power, FORMULA: tl.constexpr):
    """Gradients of a tile's raw values and of its scores, where there are any. `scale` is the bag
    value's gradient over the total of the weights."""
    x, complement = formula.probability(raw, FORMULA.from_logits)
    if FORMULA.direct:
        weight = formula.direct_weight(x, score, FORMULA)
    else:
        log2_x = formula.log2_x(raw, FORMULA)
        log2_weight = formula.log2_weight(-peak, x, log2_x, score, alpha, power, FORMULA)
        weight = tl.exp2(log2_weight)
    weight *= scale
    residual = x - y
    x_gradient = weight * formula.frame_gradient(
        raw, x, complement, residual, alpha, power, FORMULA
    )
    scores_gradient = x_gradient
    if FORMULA.given:
        scores_gradient = scale * residual
    elif FORMULA.scores:
        slope = formula.activation_derivative(score, FORMULA.activation)
        scores_gradient = weight * residual * slope
    return x_gradient, scores_gradient


@triton.jit
def gradients_of_frames(
    gradient_ptr,
    x_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    mask_ptr,
    statistics_ptr,
    x_gradient_ptr,
    scores_gradient_ptr,
    bags,
    bag,
    row,
    classes,
    class_start,
    first,
    last,
    gradient_strides,
    x_strides,
    scores_strides,
    mask_strides,
    x_gradient_strides,
    scores_gradient_strides,
    FORMULA: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Write the gradients of some frames of a bag's block of classes; the frames are in `row` of
    the frame tensors."""
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    gradient = tl.load(address, mask=has_class, other=0).to(COMPUTE)
    total = tl.load(cell + TOTAL * cells, mask=has_class, other=1)
    scale = (gradient / total)[:, None]
    power = coefficient(power_ptr, class_index, has_class, FORMULA.power, COMPUTE)
    alpha = coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, COMPUTE)
    y = scale
    peak = scale
    if FORMULA.reads_values:
        y = tl.load(cell + AVERAGE * cells, mask=has_class, other=0)[:, None]
        if not FORMULA.direct:
            peak = tl.load(cell + PEAK * cells, mask=has_class, other=0)[:, None]
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class,
            frame_start,
            last,
            mask_ptr,
            row,
            mask_strides,
            BLOCK_FRAMES,
            FORMULA.masked,
        )
        x_gradient = scale + tl.zeros((BLOCK_CLASSES, BLOCK_FRAMES), COMPUTE)
        if FORMULA.reads_values:
            raw, score = _read_tile(
                x_ptr,
                scores_ptr,
                row,
                class_start,
                frame_start,
                x_strides,
                scores_strides,
                inside,
                real,
                FORMULA,
                BLOCK_CLASSES,
                BLOCK_FRAMES,
                WIDE,
                COMPUTE,
            )
            x_gradient, scores_gradient = _gradients_of_tile(
                raw, score, scale, y, peak, alpha, power, FORMULA
            )
            if FORMULA.scores:
                scores_gradient_tile = tiles.pointers(
                    scores_gradient_ptr,
                    row,
                    class_start,
                    frame_start,
                    scores_gradient_strides,
                    BLOCK_CLASSES,
                    BLOCK_FRAMES,
                    WIDE,
                )
                scores_gradient = tl.where(real, scores_gradient, 0.0)
                tl.store(scores_gradient_tile, scores_gradient, mask=inside)
        x_gradient_tile = tiles.pointers(
            x_gradient_ptr,
            row,
            class_start,
            frame_start,
            x_gradient_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        tl.store(x_gradient_tile, tl.where(real, x_gradient, 0.0), mask=inside)


@triton.jit
def sum_parameters(
    gradient_ptr,
    statistics_ptr,
    power_gradient_ptr,
    alpha_gradient_ptr,
    block,
    bags,
    classes,
    gradient_strides,
    FORMULA: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The learned parameters' gradients for one block of classes."""
    cells = tl.cast(bags, tl.int64) * classes
    covariance_ptr = statistics_ptr + COVARIANCES * cells
    if FORMULA.variance:
        sums.over_bags(
            gradient_ptr,
            covariance_ptr,
            alpha_gradient_ptr,
            block,
            bags,
            classes,
            gradient_strides,
            COMPUTE,
        )
    if FORMULA.covariance:
        sums.over_bags(
            gradient_ptr,
            covariance_ptr + FORMULA.variance * cells,
            power_gradient_ptr,
            block,
            bags,
            classes,
            gradient_strides,
            COMPUTE,
        )
