"""The operators of attention by two linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milkernels import reference
from milkernels.ops.library import Family, apply, kernels, register
from milkernels.ops.results import contiguous_like

NAME = "linear_attention"

#: Rows of the statistics: peak, total and average of each row's weights and values.
STATISTICS_ROWS = 3


def linear_attention(
    z: Tensor,
    att_weight: Tensor,
    att_bias: Tensor,
    cla_weight: Tensor,
    cla_bias: Tensor,
    variant: str,
    backend: str,
) -> Tensor:
    """Rows of z (..., L) pooled to (...); arguments are checked by the caller."""
    return apply(NAME, (z, att_weight, att_bias, cla_weight, cla_bias), (variant, backend))


def _rows(z: Tensor) -> Tensor:
    """z as (rows, L), each row contiguous: a view where its strides allow."""
    rows = z.reshape(z.numel() // z.shape[-1], z.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _forward(z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *layers, variant, backend = rest
    y, statistics = _forward_fake(z, *rest)
    if z.numel() == 0:
        return y.zero_(), statistics.zero_()
    kernels(backend, NAME).forward(_rows(z), layers, variant, y.view(-1), statistics.view(-1))
    return y, statistics


def _forward_fake(z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = z.shape[:-1]
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return z.new_empty(shape), z.new_empty((STATISTICS_ROWS, *shape), dtype=dtype)


def _backward(
    gradient: Tensor,
    z: Tensor,
    att_weight: Tensor,
    att_bias: Tensor,
    cla_weight: Tensor,
    cla_bias: Tensor,
    statistics: Tensor,
    needs: list[bool],
    variant: str,
    backend: str,
) -> list[Tensor]:
    layers = [att_weight, att_bias, cla_weight, cla_bias]
    gradients = _empty_gradients([z, *layers], needs)
    z_gradient, *layer_gradients = gradients
    if z.numel() == 0:
        return [tensor.zero_() for tensor in gradients if tensor is not None]
    kernels(backend, NAME).backward(
        gradient.reshape(-1).contiguous(),
        _rows(z),
        layers,
        statistics.view(-1),
        variant,
        None if z_gradient is None else z_gradient.view(-1, z.shape[-1]),
        layer_gradients,
    )
    return [tensor for tensor in gradients if tensor is not None]


def _backward_fake(gradient: Tensor, *rest: Any) -> list[Tensor]:
    *inputs, _, needs, _, _ = rest
    return [tensor for tensor in _empty_gradients(inputs, needs) if tensor is not None]


def _empty_gradients(inputs: list[Tensor], needs: list[bool]) -> list[Tensor | None]:
    return [
        contiguous_like(tensor) if needed else None
        for tensor, needed in zip(inputs, needs, strict=True)
    ]


def _reference(*arguments: Any) -> Tensor:
    return reference.linear_attention_pool(*arguments[:-1])


register(
    Family(
        name=NAME,
        tensors=(
            "Tensor z, Tensor att_weight, Tensor att_bias, Tensor cla_weight, Tensor cla_bias"
        ),
        options="str variant, str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
