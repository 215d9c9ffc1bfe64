"""A weighted average, binary cross-entropy and their gradient in one kernel: see
`pool_bce_kernels`."""

import triton.language as tl

from milkernels.kernels import cross_entropy, formula, jit, lanes, moments, pool_bce_kernels
from milkernels.kernels import weighted_average_frames as averages
from milkernels.kernels import weighted_average_gradients as gradients


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
    BLOCK: tl.constexpr,
):
    place, class_index, has_class, cell = pool_bce_kernels.place_of(classes, BLOCK)
    x, scores = (x_ptr, x_strides), (scores_ptr, scores_strides)
    mask = (mask_ptr, mask_strides)
    x_gradient = (x_gradient_ptr, x_gradient_strides)
    scores_gradient = (scores_gradient_ptr, scores_gradient_strides)
    power = averages.coefficient(power_ptr, class_index, has_class, FORMULA.power, BLOCK.compute)
    alpha = averages.coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, BLOCK.compute)
    if HELD:
        inside, real = lanes.inside_and_real(mask, place, 0, frames, BLOCK, False, FORMULA.masked)
        raw, score = averages.read_block(x, scores, place, 0, inside, real, FORMULA, BLOCK)
        state = averages.empty(FORMULA, BLOCK)
        state = averages.with_block(state, raw, score, real, alpha, power, False, FORMULA, BLOCK)
        state = averages.joined(state, FORMULA)
    else:
        state = averages.sums_of_frames(
            x, scores, mask, place, 0, frames, alpha, power, FORMULA, BLOCK
        )
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
    known = gradients.known_of_bag(gradient / total, y, peak, alpha, power)
    if HELD:
        to_x, to_scores = gradients.gradients_of_tile(raw, score, known, FORMULA)
        gradients.write_block(
            x_gradient, scores_gradient, place, 0, to_x, to_scores, inside, real, FORMULA, BLOCK
        )
    else:
        gradients.write_gradients(
            known, x, scores, mask, x_gradient, scores_gradient, place, 0, frames, FORMULA, BLOCK
        )
