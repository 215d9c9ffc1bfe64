"""The gate of gated fusion in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(c: Tensor, gate: Tensor) -> Tensor:
    """sigmoid(gate) · c."""
    c, gate = c.contiguous(), gate.contiguous()
    y = torch.empty_like(c)
    extension.functions.gated_fusion_forward(*_arguments(c, gate), y.data_ptr())
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
    extension.functions.gated_fusion_backward(
        *_arguments(c, gate),
        gradient.data_ptr(),
        extension.address(c_gradient),
        extension.address(gate_gradient),
    )


def _arguments(c: Tensor, gate: Tensor) -> tuple[int, ...]:
    threads = torch.get_num_threads()
    return extension.ELEMENTS[c.dtype], c.numel(), threads, c.data_ptr(), gate.data_ptr()
