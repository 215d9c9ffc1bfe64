"""Bags of different lengths as one tensor: instances in a row, and offsets where bags begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def is_shape_alone(tensor: Tensor) -> bool:
    """Whether a tensor, of the meta device or of FakeTensorMode, has no numbers and will get none:
    what a tracer records would run on numbers later, but torch.compile's on this device alone."""
    has_none = tensor.is_meta or isinstance(tensor, FakeTensor)
    return has_none and (torch.compiler.is_dynamo_compiling() or get_proxy_mode() is None)


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
    if tensor._ragged_idx != 1:
        raise ValueError(
            f"{name}: expected a nested tensor (batch, ragged, classes), got its ragged dimension "
            "last"
        )
    if tensor.lengths() is not None and not is_shape_alone(tensor.values()):
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
