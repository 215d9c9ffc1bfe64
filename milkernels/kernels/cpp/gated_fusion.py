"""The gate of gated fusion in C++."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(c: Tensor, gate: Tensor) -> Tensor:
    """sigmoid(gate) · c."""
    c, gate = c.contiguous(), gate.contiguous()
    y = torch.empty_like(c)
    _run(extension.functions.gated_fusion_forward, c, gate, y)
    return y


def backward(
    gradient: Tensor,
    c: Tensor,
    gate: Tensor,
    c_gradient: Tensor | None,
    gate_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given, contiguous."""
    c, gate, gradient = c.contiguous(), gate.contiguous(), gradient.contiguous()
    _run(extension.functions.gated_fusion_backward, c, gate, gradient, c_gradient, gate_gradient)


def _run(function: Callable[..., None], *tensors: Tensor | None) -> None:
    flat = (None if tensor is None else tensor.view(-1) for tensor in tensors)
    function(torch.get_num_threads(), *flat)
