"""The operators of gated fusion: its gate, beside PyTorch's matrix products."""

from __future__ import annotations

from torch import Tensor

from milkernels.ops.library import Family, apply, kernels, register
from milkernels.ops.results import contiguous_like
from milkernels.reference.gated_fusion import gate as reference_gate

NAME = "gated_fusion"


def gated_fusion(c: Tensor, gate: Tensor, backend: str) -> Tensor:
    """sigmoid(gate) · c of two tensors of one shape and dtype."""
    return apply(NAME, (c, gate), (backend,))


def _forward(c: Tensor, gate: Tensor, backend: str) -> Tensor:
    return kernels(backend, NAME).forward(c, gate)


def _forward_fake(c: Tensor, gate: Tensor, backend: str) -> Tensor:
    return contiguous_like(c)


def _backward(
    gradient: Tensor, c: Tensor, gate: Tensor, needs: list[bool], backend: str
) -> list[Tensor]:
    c_gradient, gate_gradient = (contiguous_like(c) if needed else None for needed in needs)
    kernels(backend, NAME).backward(gradient, c, gate, c_gradient, gate_gradient)
    return [tensor for tensor in (c_gradient, gate_gradient) if tensor is not None]


def _backward_fake(
    gradient: Tensor, c: Tensor, gate: Tensor, needs: list[bool], backend: str
) -> list[Tensor]:
    return [contiguous_like(c) for needed in needs if needed]


def _reference(c: Tensor, gate: Tensor, _: str) -> Tensor:
    return reference_gate(c, gate)


register(
    Family(
        name=NAME,
        tensors="Tensor c, Tensor gate",
        options="str backend",
        saved=0,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
