"""Global weighted rank pooling in C++."""

from __future__ import annotations

from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(
    x: Tensor, mask: Tensor | None, decay: float, from_logits: bool, ranks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Bag values and totals of the weights (bags, classes); fills `ranks` if they are wanted: the
    place of each frame's weight among the powers of decay, -1 for one that weighs nothing."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    y = extension.bag_values(x)
    total = x.new_empty(x.shape[:2], dtype=extension.arithmetic(x))
    filled = extension.empty_along(ranks, axis)
    extension.functions.rank_forward(
        decay,
        from_logits,
        extension.walk(axis),
        x,
        mask,
        y,
        total,
        filled,
    )
    extension.hand_over((filled,), (ranks,))
    return y, total


def backward(
    gradient: Tensor,
    x: Tensor,
    ranks: Tensor,
    total: Tensor,
    decay: float,
    from_logits: bool,
    x_gradient: Tensor,
) -> None:
    """Fill the gradient of x."""
    axis = extension.lane_axis(x_gradient)
    x, ranks = extension.along(x, axis), extension.along(ranks, axis)
    gradient, total = gradient.contiguous(), total.contiguous()
    filled = extension.empty_along(x_gradient, axis)
    extension.functions.rank_backward(
        decay,
        from_logits,
        extension.walk(axis),
        x,
        gradient,
        total,
        ranks,
        filled,
    )
    extension.hand_over((filled,), (x_gradient,))
