"""Weighted averages in Triton: one forward and one backward kernel for the whole family."""

from __future__ import annotations

import triton.language as tl

from milkernels.kernels import jit, moments, sums, tiles
from milkernels.kernels import weighted_average_frames as averages
from milkernels.kernels import weighted_average_gradients as gradients


@jit.kernel
def _weighted_average_forward_kernel(
    x_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    mask_ptr,
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
    FORMULA: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program walks one segment of one bag's block of classes."""
    bag, segment, class_start, first, last = tiles.forward_walk(
        bags, classes, frames, segment_frames, BLOCK.classes
    )
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    power = averages.coefficient(power_ptr, class_index, has_class, FORMULA.power, BLOCK.compute)
    alpha = averages.coefficient(alpha_ptr, class_index, has_class, FORMULA.alpha, BLOCK.compute)
    state = averages.sums_of_frames(
        (x_ptr, x_strides),
        (scores_ptr, scores_strides),
        (mask_ptr, mask_strides),
        (bag, class_start, classes),
        first,
        last,
        alpha,
        power,
        FORMULA,
        BLOCK,
    )
    cell = tl.cast(bag, tl.int64) * classes + class_index
    cells = tl.cast(bags, tl.int64) * classes
    if SEGMENTED:
        part = partial_ptr + segment * cells * moments.ROWS + cell
        moments.store(part, cells, state, has_class)
    else:
        averages.finish(state, y_ptr, statistics_ptr, cell, cells, has_class, FORMULA)


@jit.kernel
def _weighted_average_merge_kernel(
    partial_ptr,
    y_ptr,
    statistics_ptr,
    cells,
    segments,
    FORMULA: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row_stride = tl.cast(cells, tl.int64)
    state = moments.load(partial_ptr + cell, row_stride, inside)
    for segment in range(1, segments):
        part = partial_ptr + segment * row_stride * moments.ROWS + cell
        state = moments.merge(state, moments.load(part, row_stride, inside), FORMULA)
    averages.finish(state, y_ptr, statistics_ptr, cell, row_stride, inside, FORMULA)


@jit.kernel
def _weighted_average_backward_kernel(
    gradient_ptr,
    x_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    mask_ptr,
    statistics_ptr,
    x_gradient_ptr,
    scores_gradient_ptr,
    power_gradient_ptr,
    alpha_gradient_ptr,
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
    FORMULA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Elementwise in the frames: a program walks some of those of one bag's block of classes. The
    first programs of the grid sum the parameters' gradients."""
    program = tl.program_id(0)
    first_walk = sums.first_walk(classes, FORMULA.learns)
    if program < first_walk:
        gradients.sum_parameters(
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
    else:
        bag, class_start, first, last = tiles.backward_walk(
            program - first_walk, classes, frames, walk_frames, BLOCK.classes
        )
        gradients.gradients_of_frames(
            (gradient_ptr, gradient_strides),
            (x_ptr, x_strides),
            (scores_ptr, scores_strides),
            power_ptr,
            alpha_ptr,
            (mask_ptr, mask_strides),
            statistics_ptr,
            (x_gradient_ptr, x_gradient_strides),
            (scores_gradient_ptr, scores_gradient_strides),
            bags,
            bag,
            (bag, class_start, classes),
            first,
            last,
            FORMULA,
            BLOCK,
        )
