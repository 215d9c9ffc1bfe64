"""Log-mean-exp in C++."""

from __future__ import annotations

from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(
    x: Tensor, sharpness: Tensor, mask: Tensor | None, from_logits: bool, learn: bool
) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes) and the statistics that the backward pass needs: reference, total,
    and dy/dr if it is to be learned."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    sharpness = extension.in_arithmetic(sharpness, x)
    y = extension.bag_values(x)
    statistics = extension.bag_rows(x, 2 + learn)
    extension.functions.log_mean_exp_forward(
        from_logits,
        learn,
        extension.walk(axis),
        x,
        mask,
        sharpness,
        y,
        statistics,
    )
    return y, statistics


def backward(
    gradient: Tensor,
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    from_logits: bool,
    x_gradient: Tensor,
    sharpness_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    sharpness = extension.in_arithmetic(sharpness, x)
    gradient, statistics = gradient.contiguous(), statistics.contiguous()
    given = (x_gradient, sharpness_gradient)
    filled = (
        extension.empty_along(x_gradient, axis),
        extension.empty_in_arithmetic(sharpness_gradient, x),
    )
    extension.functions.log_mean_exp_backward(
        from_logits,
        extension.walk(axis),
        x,
        mask,
        sharpness,
        gradient,
        statistics,
        *filled,
    )
    extension.hand_over(filled, given)
