"""The gate of gated fusion in Triton: elementwise beside the matrix products."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import formula, jit, tiles
from milkernels.kernels.launch import Launch


@jit.kernel
def _gated_fusion_forward_kernel(
    c_ptr, gate_ptr, y_ptr, elements, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    """y = sigmoid(gate) · c."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < elements
    c = tl.load(c_ptr + index, mask=inside, other=0).to(COMPUTE)
    gate = tl.load(gate_ptr + index, mask=inside, other=0).to(COMPUTE)
    is_open, _ = formula.probability(gate, True)
    tl.store(y_ptr + index, is_open * c, mask=inside)


@jit.kernel
def _gated_fusion_backward_kernel(
    gradient_ptr,
    c_ptr,
    gate_ptr,
    c_gradient_ptr,
    gate_gradient_ptr,
    elements,
    WRITES_C: tl.constexpr,
    WRITES_GATE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of c, without what comes through the gate, and of the gate before its sigmoid."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < elements
    gradient = tl.load(gradient_ptr + index, mask=inside, other=0).to(COMPUTE)
    gate = tl.load(gate_ptr + index, mask=inside, other=0).to(COMPUTE)
    is_open, is_closed = formula.probability(gate, True)
    through = gradient * is_open
    if WRITES_C:
        tl.store(c_gradient_ptr + index, through, mask=inside)
    if WRITES_GATE:
        c = tl.load(c_ptr + index, mask=inside, other=0).to(COMPUTE)
        tl.store(gate_gradient_ptr + index, through * is_closed * c, mask=inside)


def forward(c: Tensor, gate: Tensor) -> tuple[list[Launch], Tensor]:
    """The launch of a forward pass, and its output sigmoid(gate) · c."""
    c, gate = c.contiguous(), gate.contiguous()
    y = torch.empty_like(c)
    arguments: dict[str, object] = {"c_ptr": c, "gate_ptr": gate, "y_ptr": y}
    return [_launch(_gated_fusion_forward_kernel, c, arguments)], y


def backward(
    gradient: Tensor,
    c: Tensor,
    gate: Tensor,
    c_gradient: Tensor | None,
    gate_gradient: Tensor | None,
) -> list[Launch]:
    """The launch of a backward pass, which fills the gradients that are given, contiguous."""
    arguments = {
        "gradient_ptr": gradient.contiguous(),
        "c_ptr": c.contiguous(),
        "gate_ptr": gate.contiguous(),
        "c_gradient_ptr": c if c_gradient is None else c_gradient,
        "gate_gradient_ptr": c if gate_gradient is None else gate_gradient,
        "WRITES_C": c_gradient is not None,
        "WRITES_GATE": gate_gradient is not None,
    }
    return [_launch(_gated_fusion_backward_kernel, c, arguments)]


def _launch(kernel: triton.JITFunction, c: Tensor, arguments: dict[str, object]) -> Launch:
    return Launch(
        kernel,
        triton.cdiv(c.numel(), tiles.TILE_ELEMENTS),
        {
            **arguments,
            "elements": c.numel(),
            "COMPUTE": tl.float64 if c.dtype == torch.float64 else tl.float32,
            "BLOCK": tiles.TILE_ELEMENTS,
        },
    )
