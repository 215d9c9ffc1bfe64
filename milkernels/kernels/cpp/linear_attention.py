"""Attention by two linear layers in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension


def forward(z: Tensor, layers: list[Tensor], variant: str, y: Tensor, statistics: Tensor) -> None:
    """Fill the values (rows,) and the statistics (3 · rows,) of z (rows, L), each row contiguous.

    `layers`: weight and bias of the attention layer, then of the class layer.
    """
    layers = [extension.in_arithmetic(parameter, z) for parameter in layers]
    extension.functions.linear_attention_forward(*_options(variant), z, layers, y, statistics)


def backward(
    gradient: Tensor,
    z: Tensor,
    layers: list[Tensor],
    statistics: Tensor,
    variant: str,
    z_gradient: Tensor | None,
    layer_gradients: list[Tensor | None],
) -> None:
    """Fill the gradients that are given."""
    layers = [extension.in_arithmetic(parameter, z) for parameter in layers]
    filled: list[Tensor | None] = [None] * len(layers)
    if any(given is not None for given in layer_gradients):
        # One pass over z gives them all: what nobody needs is dropped.
        filled = [
            torch.empty_like(parameter) if given is None
            else extension.empty_in_arithmetic(given, z)
            for parameter, given in zip(layers, layer_gradients, strict=True)
        ]  # fmt: skip
    extension.functions.linear_attention_backward(
        *_options(variant),
        gradient,
        z,
        layers,
        statistics.contiguous(),
        z_gradient,
        filled,
    )
    for source, target in zip(filled, layer_gradients, strict=True):
        if source is not None and target is not None and source is not target:
            target.copy_(source)


def _options(variant: str) -> tuple[bool, int]:
    return variant == "code", torch.get_num_threads()
