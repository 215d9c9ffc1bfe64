"""Bags of different lengths as one tensor: instances in a row, and offsets where bags begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pack(name: str, tensor: Any) -> tuple[Tensor, Tensor]:
    """Values (instances, classes), offsets (bags + 1,) of a nested (bags, ragged, classes) tensor.

    A jagged one is taken as it lies; one of nested strides, or with holes, is copied.

    Raises:
        ValueError: if `tensor` has other dimensions.
    """
    if tensor.dim() != 3:
        raise ValueError(
            f"{name}: expected a nested tensor (batch, ragged, classes), got {tensor.dim()} "
            "dimensions"
        )
    if tensor.layout != torch.jagged:
        return _concatenated(name, tensor)
    if not isinstance(tensor.shape[2], int):
        raise ValueError(
            f"{name}: expected a nested tensor (batch, ragged, classes), got its ragged dimension "
            "last"
        )
    if tensor.lengths() is not None:
        return _concatenated(name, tensor)
    return tensor.values(), tensor.offsets()


def _concatenated(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    bags = tensor.unbind()
    widths = sorted({bag.shape[1] for bag in bags})
    if len(widths) != 1:
        raise ValueError(
            f"{name}: expected a nested tensor of at least one bag whose bags have equally many "
            f"classes, got {widths}"
        )
    lengths = torch.tensor([0, *(bag.shape[0] for bag in bags)], device=tensor.device)
    return torch.cat(bags), lengths.cumsum(0)
