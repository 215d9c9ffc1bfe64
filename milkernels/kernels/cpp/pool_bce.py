"""Pooling and binary cross-entropy in one pass, in C++."""

from __future__ import annotations

from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES, PooledLoss
from milkernels.kernels.cpp import extension, weighted_average


def forward(
    x: Tensor,
    scores: Tensor | None,
    parameters: tuple[Tensor | None, Tensor | None, Tensor | None],
    mask: Tensor | None,
    labels: tuple[Tensor, Tensor | None, Tensor | None, Tensor],
    pooling: PooledLoss,
    cells: Tensor,
    x_gradient: Tensor | None,
    scores_gradient: Tensor | None,
    shares: Tensor | None,
) -> None:
    """Fill the losses, `cells` (bags, classes), and the gradients that are given.

    `parameters` are alpha, power and sharpness, and `shares` each bag's and class's part of the
    gradients of those that are there (parameters, bags, classes). `labels` are targets, weights,
    which labels are known, all (bags, classes), and the scale of the gradients.
    """
    axis = extension.lane_axis(x)
    x, scores = extension.along(x, axis), extension.along(scores, axis)
    alpha, power, sharpness = (extension.in_arithmetic(value, x) for value in parameters)
    target, weight, known, scale = labels
    given = (x_gradient, scores_gradient)
    filled = tuple(extension.empty_along(gradient, axis) for gradient in given)
    inputs = (pooling.from_logits, extension.walk(axis), x)
    loss = (target, weight, known, cells, scale.item())
    to_x, to_scores = filled
    activation = SCORE_ACTIVATIONS.index(pooling.score_activation)
    functions = extension.functions
    if pooling.name in WEIGHTED_AVERAGES:
        alpha_row, power_row = _rows(shares, (alpha, power))
        functions.weighted_average_bce(
            weighted_average.member_number(pooling.name),
            activation,
            *inputs,
            scores,
            mask,
            power,
            alpha,
            loss,
            to_x,
            to_scores,
            power_row,
            alpha_row,
        )
    elif pooling.name == "class_attention":
        functions.class_attention_bce(activation, *inputs, scores, mask, loss, to_x, to_scores)
    elif pooling.name == "log_mean_exp":
        row = _rows(shares, (sharpness,))
        functions.log_mean_exp_bce(*inputs, mask, sharpness, loss, to_x, *row)
    elif pooling.name == "rank":
        functions.rank_bce(pooling.decay, *inputs, mask, loss, to_x)
    else:
        function = {"max": functions.maximum_bce, "noisy_or": functions.noisy_or_bce}[pooling.name]
        function(*inputs, mask, loss, to_x)
    extension.hand_over(filled, given)


def backward(filled: Tensor, by: Tensor) -> None:
    """Multiply gradients by a number, in place."""
    if by.item() != 1:
        filled.mul_(by)


def total(cells: Tensor) -> Tensor:
    """Sum of the losses, in order."""
    return cells.new_full((), extension.functions.sum_in_order(cells))


def _rows(
    shares: Tensor | None, parameters: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Where each parameter's shares go, None for one that is absent."""
    rows = iter(()) if shares is None else iter(shares)
    return tuple(None if parameter is None else next(rows, None) for parameter in parameters)
