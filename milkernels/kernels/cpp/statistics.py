"""Statistics pooling in C++."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics (bags, 2 · channels), then what the backward pass needs: peak and total of the
    weights (2, bags, heads), mean, what rounding took off it, and variance (3, bags, channels)."""
    bags, channels, _ = h.shape
    heads = cast(Tensor, scores).shape[1] if query is None else query.shape[0]
    compute = extension.arithmetic(h)
    y = h.new_empty((bags, 2 * channels))
    normaliser = h.new_empty((2, bags, heads), dtype=compute)
    moments = h.new_empty((3, bags, channels), dtype=compute)
    axis = extension.lane_axis(h)
    h, scores = extension.along(h, axis), extension.along(scores, axis)
    query = extension.in_arithmetic(query, h)
    extension.functions.statistics_forward(
        extension.walk(axis), mask, eps, h, query, scores, normaliser, moments, y
    )
    return y, normaliser, moments


def backward(
    gradient: Tensor,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    normaliser: Tensor,
    moments: Tensor,
    eps: float,
    h_gradient: Tensor | None,
    query_gradient: Tensor | None,
    scores_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    axis = extension.lane_axis(h)
    given = (h_gradient, query_gradient, scores_gradient)
    filled = (
        extension.empty_along(h_gradient, axis),
        extension.empty_in_arithmetic(query_gradient, h),
        extension.empty_along(scores_gradient, axis),
    )
    h, scores = extension.along(h, axis), extension.along(scores, axis)
    query = extension.in_arithmetic(query, h)
    gradient, normaliser, moments = (
        gradient.contiguous(),
        normaliser.contiguous(),
        moments.contiguous(),
    )
    extension.functions.statistics_backward(
        extension.walk(axis),
        mask,
        eps,
        h,
        query,
        scores,
        normaliser,
        moments,
        gradient,
        *filled,
    )
    extension.hand_over(filled, given)
