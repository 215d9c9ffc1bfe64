"""Weighted averages in Triton: what their kernels are launched with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from milkernels.family import Average
from milkernels.kernels import lanes, moments, sums, tiles
from milkernels.kernels import weighted_average_frames as averages
from milkernels.kernels import weighted_average_kernels as kernels
from milkernels.kernels.formula import Formula
from milkernels.kernels.launch import Launch, of_classes, or_else, strides_of

_MERGE_CELLS = 128

#: Of a thread that keeps the sums of parameters' gradients, too: of their own frames, and of bags.
_CROWDED_REGISTERS = 255
_SUMMING_REGISTERS = 96


def forward(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    average: Average,
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """Launches of a forward pass, and their outputs: y (bags, classes) and the statistics.

    Frame tensors are (bags, classes, frames) views. The statistics hold the covariances that the
    learned parameters' gradients need, if those are wanted.
    """
    bags, classes, _ = x.shape
    tiling = lanes.of(x, scores, thread_bytes=lanes.JOINED_BYTES)
    formula = Formula.of(average, mask is not None)
    compute = tiles.arithmetic_dtype(x)
    learns = formula.variance + formula.covariance
    rows = averages.COVARIANCES.value + learns
    y = x.new_empty((bags, classes))
    statistics = x.new_empty((rows, bags, classes), dtype=compute)
    segments = tiling.segments
    partial = statistics
    if segments > 1:
        partial = x.new_empty((segments, moments.ROWS.value, bags, classes), dtype=compute)
    outputs = {"y_ptr": y, "statistics_ptr": statistics, "partial_ptr": partial}
    walk = Launch(
        kernels._weighted_average_forward_kernel,
        bags * tiling.class_blocks * segments,
        {
            **_inputs(x, scores, power, alpha, mask),
            **outputs,
            "segment_frames": tiling.segment_frames,
            "FORMULA": formula,
            "SEGMENTED": segments > 1,
            **tiling.constants(x, scores, mask),
        },
        registers=_CROWDED_REGISTERS if learns else None,
    )
    if segments == 1:
        return [walk], (y, statistics)
    cells = bags * classes
    merge = Launch(
        kernels._weighted_average_merge_kernel,
        triton.cdiv(cells, _MERGE_CELLS),
        {
            **outputs,
            "cells": cells,
            "segments": segments,
            "FORMULA": formula,
            "BLOCK_CELLS": _MERGE_CELLS,
        },
    )
    return [walk, merge], (y, statistics)


def backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    average: Average,
    x_gradient: Tensor,
    scores_gradient: Tensor | None,
    power_gradient: Tensor | None,
    alpha_gradient: Tensor | None,
) -> list[Launch]:
    """Launches of a backward pass, which fill the gradients that are given."""
    tiling = lanes.of(x, scores, x_gradient, scores_gradient)
    learn = power_gradient is not None or alpha_gradient is not None
    formula = Formula.of(replace(average, learn=learn), mask is not None)
    walk = Launch(
        kernels._weighted_average_backward_kernel,
        sums.programs(tiling.classes, learn) + tiling.bags * tiling.class_blocks * tiling.walks,
        {
            **_inputs(x, scores, power, alpha, mask),
            "gradient_ptr": gradient,
            "statistics_ptr": statistics,
            "x_gradient_ptr": x_gradient,
            "scores_gradient_ptr": or_else(scores_gradient, x),
            "power_gradient_ptr": or_else(power_gradient, x),
            "alpha_gradient_ptr": or_else(alpha_gradient, x),
            "walk_frames": tiling.walk_frames,
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": x_gradient.stride(),
            "scores_gradient_strides": strides_of(scores_gradient),
            "FORMULA": formula,
            **tiling.constants(x, scores, mask, x_gradient, scores_gradient),
        },
        registers=_SUMMING_REGISTERS if formula.learns and x.dtype != torch.float64 else None,
    )
    return [walk]


def _inputs(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
) -> dict[str, Any]:
    """The arguments that both directions read."""
    bags, classes, frames = x.shape
    return {
        "x_ptr": x,
        "scores_ptr": or_else(scores, x),
        "power_ptr": of_classes(power, x),
        "alpha_ptr": of_classes(alpha, x),
        "mask_ptr": x if mask is None else mask.view(torch.uint8),
        "bags": bags,
        "classes": classes,
        "frames": frames,
        "x_strides": x.stride(),
        "scores_strides": strides_of(scores),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
    }
