"""The maximum over frames in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(x: Tensor, mask: Tensor | None, from_logits: bool) -> tuple[Tensor, Tensor]:
    """Bag values and each maximum's frame (bags, classes), -1 for a bag without a real frame."""
    axis = extension.lane_axis(x)
    x = extension.along(x, axis)
    y = x.new_empty(x.shape[:2])
    index = x.new_empty(x.shape[:2], dtype=torch.int64)
    extension.functions.maximum_forward(
        extension.ELEMENTS[x.dtype],
        from_logits,
        extension.layout(x, axis),
        extension.frames_argument(x),
        extension.mask_argument(mask),
        y.data_ptr(),
        index.data_ptr(),
    )
    return y, index


def backward(
    gradient: Tensor, x: Tensor, index: Tensor, from_logits: bool, x_gradient: Tensor
) -> None:
    """Fill the gradient of x."""
    axis = extension.lane_axis(x_gradient)
    gradient = gradient.contiguous()
    filled = extension.empty_along(x_gradient, axis)
    extension.functions.maximum_backward(
        extension.ELEMENTS[x.dtype],
        from_logits,
        extension.layout(x, axis),
        extension.frames_argument(x),
        gradient.data_ptr(),
        index.data_ptr(),
        extension.frames_argument(filled),
    )
    extension.hand_over((filled,), (x_gradient,))
