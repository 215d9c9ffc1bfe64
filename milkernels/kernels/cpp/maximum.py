"""The maximum over frames in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(
    x: Tensor, mask: Tensor | None, from_logits: bool, plus_mean: bool
) -> tuple[Tensor, Tensor]:
    """Bag values, and the places (1 or 2, bags, classes): each maximum's frame, -1 for a bag
    without a real frame; then, with `plus_mean`, how many are real."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    y = extension.bag_values(x)
    places = x.new_empty((1 + plus_mean, *x.shape[:2]), dtype=torch.int64)
    extension.functions.maximum_forward(
        from_logits,
        plus_mean,
        extension.walk(axis),
        x,
        mask,
        y,
        places,
    )
    return y, places


def backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    places: Tensor,
    from_logits: bool,
    plus_mean: bool,
    x_gradient: Tensor,
) -> None:
    """Fill the gradient of x."""
    axis = extension.lane_axis(x_gradient)
    # Without the mean only the maxima are read: x need not be contiguous.
    x = extension.along(x, axis) if plus_mean and from_logits else x
    gradient, places = gradient.contiguous(), places.contiguous()
    filled = extension.empty_along(x_gradient, axis)
    extension.functions.maximum_backward(
        from_logits,
        plus_mean,
        extension.walk(axis),
        x,
        mask,
        gradient,
        places,
        filled,
    )
    extension.hand_over((filled,), (x_gradient,))
