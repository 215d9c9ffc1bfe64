"""Tensors for kernels to fill."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension
from milkernels.ops.library import somebody_watches


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As torch.empty_like, but of large CPU tensors in memory that the extension keeps for the next
    one when the result is dropped. Profilers see all memory: while one runs it is PyTorch's."""
    if tensor.device.type != "cpu" or extension.functions is None or somebody_watches():
        return torch.empty_like(tensor, dtype=dtype)
    return cast(Tensor, extension.functions.empty_like(tensor, dtype))


def contiguous_like(tensor: Tensor) -> Tensor:
    """The same, contiguous whatever the tensor is."""
    if tensor.is_contiguous():
        return empty_like(tensor)
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
