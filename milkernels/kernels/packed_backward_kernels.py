"""Bags of different lengths in Triton: the backward kernel of all families."""

from __future__ import annotations

import triton.language as tl

from milkernels.kernels import jit, sums
from milkernels.kernels import log_mean_exp_frames as log_mean_exp
from milkernels.kernels import maximum_frames as maximum
from milkernels.kernels import noisy_or_frames as noisy_or
from milkernels.kernels import packed_kernels as kernels
from milkernels.kernels import weighted_average_gradients as averages


@jit.kernel
def _packed_backward_kernel(
    gradient_ptr,
    x_ptr,
    offsets_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    statistics_ptr,
    places_ptr,
    x_gradient_ptr,
    scores_gradient_ptr,
    power_gradient_ptr,
    alpha_gradient_ptr,
    bags,
    classes,
    instances,
    chunk_instances,
    search_steps,
    gradient_strides,
    x_strides,
    scores_strides,
    x_gradient_strides,
    scores_gradient_strides,
    FAMILY: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    LEARN: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Elementwise in the instances, piece by piece. The first programs of the grid sum the
    parameters' gradients; that of log-mean-exp's sharpness comes as power's."""
    program = tl.program_id(0)
    first_walk = sums.first_walk(classes, LEARN)
    if program < first_walk:
        cells = tl.cast(bags, tl.int64) * classes
        if FAMILY == kernels.AVERAGE:
            averages.sum_parameters(
                gradient_ptr,
                statistics_ptr,
                power_gradient_ptr,
                alpha_gradient_ptr,
                program,
                bags,
                classes,
                gradient_strides,
                FORMULA,
                BLOCK.compute,
            )
        elif LEARN:
            sums.over_bags(
                gradient_ptr,
                statistics_ptr + 2 * cells,
                power_gradient_ptr,
                program,
                bags,
                classes,
                gradient_strides,
                BLOCK.compute,
            )
    else:
        _, begin, end, first_bag, last_bag, class_start = kernels.chunk_of(
            program - first_walk,
            offsets_ptr,
            bags,
            classes,
            instances,
            chunk_instances,
            search_steps,
            INDEX,
            BLOCK.classes,
        )
        # All instances are the frames of one bag, unmasked.
        gradient = (gradient_ptr, gradient_strides)
        x, mask = (x_ptr, x_strides), (x_ptr, (0, 0))
        x_gradient = (x_gradient_ptr, x_gradient_strides)
        place = (0, class_start, classes)
        for bag in range(first_bag, last_bag):
            bag_first, bag_last = kernels.limits_of(offsets_ptr, bag, instances, INDEX)
            first = tl.maximum(bag_first, begin)
            last = tl.minimum(bag_last, end)
            if first < last:
                if FAMILY == kernels.AVERAGE:
                    averages.gradients_of_frames(
                        gradient,
                        x,
                        (scores_ptr, scores_strides),
                        power_ptr,
                        alpha_ptr,
                        mask,
                        statistics_ptr,
                        x_gradient,
                        (scores_gradient_ptr, scores_gradient_strides),
                        bags,
                        bag,
                        place,
                        first,
                        last,
                        FORMULA,
                        BLOCK,
                    )
                elif FAMILY == kernels.MAXIMUM:
                    maximum.gradients_of_frames(
                        gradient,
                        x,
                        mask,
                        places_ptr,
                        x_gradient,
                        bags,
                        bag,
                        place,
                        first,
                        last,
                        FROM_LOGITS,
                        PLUS_MEAN,
                        False,
                        BLOCK,
                    )
                elif FAMILY == kernels.NOISY_OR:
                    noisy_or.gradients_of_frames(
                        gradient,
                        x,
                        mask,
                        statistics_ptr,
                        x_gradient,
                        bags,
                        bag,
                        place,
                        first,
                        last,
                        FROM_LOGITS,
                        False,
                        BLOCK,
                    )
                else:
                    log_mean_exp.gradients_of_frames(
                        gradient,
                        x,
                        power_ptr,
                        mask,
                        statistics_ptr,
                        x_gradient,
                        bags,
                        bag,
                        place,
                        first,
                        last,
                        FROM_LOGITS,
                        False,
                        BLOCK,
                    )
