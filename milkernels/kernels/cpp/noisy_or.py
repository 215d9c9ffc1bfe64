"""Noisy-or in C++."""

from __future__ import annotations

from torch import Tensor

from milkernels.kernels.cpp import extension

#: Rows of the statistics: Π (1 - x_i) over the frames that are not 1, as factor and power of two,
#: the factor 0 where several are 1; and how many are.
STATISTICS_ROWS = 3


def forward(x: Tensor, mask: Tensor | None, from_logits: bool) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes) and the statistics that the backward pass needs."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    y = extension.bag_values(x)
    statistics = extension.bag_rows(x, STATISTICS_ROWS)
    extension.functions.noisy_or_forward(
        from_logits,
        extension.walk(axis),
        x,
        mask,
        y,
        statistics,
    )
    return y, statistics


def backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    from_logits: bool,
    x_gradient: Tensor,
) -> None:
    """Fill the gradient of x."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    gradient, statistics = gradient.contiguous(), statistics.contiguous()
    filled = extension.empty_along(x_gradient, axis)
    extension.functions.noisy_or_backward(
        from_logits,
        extension.walk(axis),
        x,
        mask,
        gradient,
        statistics,
        filled,
    )
    extension.hand_over((filled,), (x_gradient,))
