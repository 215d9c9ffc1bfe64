"""Weighted averages in C++."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES, Average
from milkernels.kernels.cpp import extension

#: Values of the C++ enum Member, by the terms of the log-weight.
_MEAN, _LINEAR, _EXPONENTIAL, _POWER, _POWER_EXPONENTIAL, _ATTENTION = range(6)

#: Rows of the statistics: peak, total and average. What learned parameters need is summed in
#: the backward pass.
STATISTICS_ROWS = 3


def forward(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    average: Average,
) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes) and the statistics that the backward pass needs."""
    axis = extension.lane_axis(x)
    x, scores = extension.along(x, axis), extension.along(scores, axis)
    power, alpha = extension.in_arithmetic(power, x), extension.in_arithmetic(alpha, x)
    y = extension.bag_values(x)
    statistics = extension.bag_rows(x, STATISTICS_ROWS)
    extension.functions.weighted_average_forward(
        member_number(average.member),
        SCORE_ACTIVATIONS.index(average.score_activation),
        average.from_logits,
        extension.walk(axis),
        x,
        scores,
        mask,
        power,
        alpha,
        y,
        statistics,
    )
    return y, statistics


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
) -> None:
    """Fill the gradients that are given."""
    axis = extension.lane_axis(x)
    x, scores = extension.along(x, axis), extension.along(scores, axis)
    power, alpha = extension.in_arithmetic(power, x), extension.in_arithmetic(alpha, x)
    gradient, statistics = gradient.contiguous(), statistics.contiguous()
    given = (x_gradient, scores_gradient, power_gradient, alpha_gradient)
    filled = (
        extension.empty_along(x_gradient, axis),
        extension.empty_along(scores_gradient, axis),
        extension.empty_in_arithmetic(power_gradient, x),
        extension.empty_in_arithmetic(alpha_gradient, x),
    )
    extension.functions.weighted_average_backward(
        member_number(average.member),
        SCORE_ACTIVATIONS.index(average.score_activation),
        average.from_logits,
        extension.walk(axis),
        x,
        scores,
        mask,
        power,
        alpha,
        gradient,
        statistics,
        *filled,
    )
    extension.hand_over(filled, given)


@cache
def member_number(name: str) -> int:
    coefficients = WEIGHTED_AVERAGES[name]
    if coefficients.scores:
        return _ATTENTION
    if coefficients.alpha != "none":
        return _EXPONENTIAL if coefficients.power == "none" else _POWER_EXPONENTIAL
    return {"none": _MEAN, "one": _LINEAR, "learned": _POWER}[coefficients.power]
