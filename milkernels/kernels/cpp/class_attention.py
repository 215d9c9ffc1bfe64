"""Attention that is normalised over the classes, in C++."""

from __future__ import annotations

from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS
from milkernels.kernels.cpp import extension


def forward(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    from_logits: bool,
) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes), and the weights' totals and the averages (2, bags, classes)."""
    axis = extension.lane_axis(x)
    x, scores = extension.along(x, axis), extension.along(scores, axis)
    y = extension.bag_values(x)
    statistics = extension.bag_rows(x, 2)
    extension.functions.class_attention_forward(
        SCORE_ACTIVATIONS.index(score_activation),
        from_logits,
        extension.walk(axis),
        x,
        scores,
        mask,
        y,
        statistics,
    )
    return y, statistics


def backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    score_activation: str | None,
    from_logits: bool,
    x_gradient: Tensor | None,
    scores_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    axis = extension.lane_axis(x)
    x, scores = extension.along(x, axis), extension.along(scores, axis)
    gradient, statistics = gradient.contiguous(), statistics.contiguous()
    given = (x_gradient, scores_gradient)
    filled = tuple(extension.empty_along(tensor, axis) for tensor in given)
    extension.functions.class_attention_backward(
        SCORE_ACTIVATIONS.index(score_activation),
        from_logits,
        extension.walk(axis),
        x,
        scores,
        mask,
        gradient,
        statistics,
        *filled,
    )
    extension.hand_over(filled, given)
