"""The Triton kernels, behind the same functions as the C++ ones in `cpp`.

Frame tensors are (bags, classes, frames) views of any strides.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from milkernels.kernels import maximum, weighted_average_launch
from milkernels.kernels.launch import Launch


def weighted_average_forward(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    from_logits: bool,
    learn: bool,
) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes) and the statistics that the backward pass needs."""
    launches, outputs = weighted_average_launch.forward(
        member, x, scores, power, alpha, mask, score_activation, from_logits, learn
    )
    _run(launches, x)
    return outputs


def weighted_average_backward(
    member: str,
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    score_activation: str | None,
    from_logits: bool,
    x_gradient: Tensor,
    scores_gradient: Tensor | None,
    power_gradient: Tensor | None,
    alpha_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    launch = weighted_average_launch.backward(
        member,
        gradient,
        x,
        scores,
        power,
        alpha,
        mask,
        statistics,
        score_activation,
        from_logits,
        x_gradient,
        scores_gradient,
        power_gradient,
        alpha_gradient,
    )
    _run([launch], x)


def maximum_forward(x: Tensor, mask: Tensor | None, from_logits: bool) -> tuple[Tensor, Tensor]:
    """Bag values and each maximum's frame (bags, classes), -1 for a bag without a real frame."""
    launches, outputs = maximum.forward(x, mask, from_logits)
    _run(launches, x)
    return outputs


def maximum_backward(
    gradient: Tensor, x: Tensor, index: Tensor, from_logits: bool, x_gradient: Tensor
) -> None:
    """Fill the gradient of x."""
    _run([maximum.backward(gradient, x, index, from_logits, x_gradient)], x)


def _run(launches: list[Launch], x: Tensor) -> None:
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        for launch in launches:
            launch.run()
