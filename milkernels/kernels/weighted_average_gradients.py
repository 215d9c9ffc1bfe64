"""Gradients of weighted averages in Triton: what the kernels of padded and of packed bags share."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import block_walk, formula, lanes, sums
from milkernels.kernels import weighted_average_frames as averages


@triton.jit
def gradients_of_tile(raw, score, known, FORMULA: tl.constexpr):
    """Gradients of a tile's raw values and of its scores, where there are any."""
    scale, y, peak, alpha, power = known
    x, complement = formula.probability(raw, FORMULA.from_logits)
    if FORMULA.direct:
        weight = formula.direct_weight(x, score, FORMULA)
    else:
        log2_x = formula.log2_x(raw, FORMULA)
        weight = formula.weight_below(peak, x, log2_x, score, alpha, power, FORMULA)
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
def write_block(
    x_gradient,
    scores_gradient,
    place,
    frame_start,
    to_x,
    to_scores,
    inside,
    real,
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a block's gradients, 0 for masked frames."""
    if FORMULA.scores:
        if FORMULA.masked:
            to_scores = tl.where(real, to_scores, 0.0)
        lanes.write(scores_gradient, place, frame_start, to_scores, inside, BLOCK)
    if FORMULA.masked:
        to_x = tl.where(real, to_x, 0.0)
    lanes.write(x_gradient, place, frame_start, to_x, inside, BLOCK)


@triton.jit
def _write_frames(
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    known, x, scores, mask, x_gradient, scores_gradient, place = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    to_x = known[0] + tl.zeros_like(lanes.in_frame(BLOCK)).to(BLOCK.compute)
    to_scores = to_x
    if FORMULA.reads_values:
        raw, score = averages.read_block(
            x, scores, place, frame_start, inside, real, FORMULA, BLOCK
        )
        to_x, to_scores = gradients_of_tile(raw, score, known, FORMULA)
    write_block(
        x_gradient,
        scores_gradient,
        place,
        frame_start,
        to_x,
        to_scores,
        inside,
        real,
        FORMULA,
        BLOCK,
    )


@triton.jit
def known_of_bag(scale, y, peak, alpha, power):
    """What gradients need to know of a bag's block of classes, beside its elements. `scale` is the
    bag value's gradient over the total of the weights."""
    return (
        lanes.per_class(scale),
        lanes.per_class(y),
        lanes.per_class(peak),
        lanes.per_class(alpha),
        lanes.per_class(power),
    )


@triton.jit
def write_gradients(
    known,
    x,
    scores,
    mask,
    x_gradient,
    scores_gradient,
    place,
    first,
    last,
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of some frames, from what is known of the bag."""
    given = (known, x, scores, mask, x_gradient, scores_gradient, place)
    from_logits: tl.constexpr = FORMULA.from_logits
    masked: tl.constexpr = FORMULA.masked
    block_walk.write(given, first, last, _write_frames, FORMULA, from_logits, masked, BLOCK)


@triton.jit
def gradients_of_frames(
    gradient,
    x,
    scores,
    power_ptr,
    alpha_ptr,
    mask,
    statistics_ptr,
    x_gradient,
    scores_gradient,
    bags,
    bag,
    place,
    first,
    last,
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of some frames of a bag's block of classes; the place says where they are
    in the frame tensors."""
    _, class_start, classes = place
    gradient_ptr, gradient_strides = gradient
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    cell = statistics_ptr + tl.cast(bag, tl.int64) * classes + class_index
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    scale = tl.load(address, mask=has_class, other=0).to(BLOCK.compute)
    scale /= tl.load(cell + averages.TOTAL * cells, mask=has_class, other=1)
    power = averages.coefficient(power_ptr, class_index, has_class, FORMULA.power, BLOCK.compute)
    alpha = averages.coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, BLOCK.compute)
    y = scale
    peak = scale
    if FORMULA.reads_values:
        y = tl.load(cell + averages.AVERAGE * cells, mask=has_class, other=0)
        if not FORMULA.direct:
            peak = tl.load(cell + averages.PEAK * cells, mask=has_class, other=0)
    known = known_of_bag(scale, y, peak, alpha, power)
    write_gradients(
        known, x, scores, mask, x_gradient, scores_gradient, place, first, last, FORMULA, BLOCK
    )


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
    covariance_ptr = statistics_ptr + averages.COVARIANCES * cells
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
