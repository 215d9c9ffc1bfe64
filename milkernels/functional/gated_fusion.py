"""Gated fusion of a bag's embedding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from milkernels import ops, reference, validation
from milkernels.backends import resolve


def gated_fusion(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Gates an embedding by itself. [G, eq. 11]

    $$u = \sigma(W c + b) \odot c$$

    The matrix products are PyTorch's; the gate is fused in both directions and computed in float32
    at least. Under autocast the products are in its dtype. Otherwise they are in the widest dtype
    of the three arguments.

    Args:
        c: bag embeddings (batch, N) in float64, float32, bfloat16 or float16.
        weight: W, (N, N), in any of these dtypes.
        bias: b, (N,).

    Returns:
        (batch, N) in c's dtype.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    >>> gated_fusion(torch.tensor([[1.0, 2.0]]), weight=torch.zeros(2, 2), bias=torch.zeros(2))
    tensor([[0.5000, 1.0000]])
    """
    validation.gated_embedding(c, weight, bias)
    chosen = resolve(c.device)
    if chosen == "reference":
        return reference.gated_fusion(c, weight, bias)
    return ops.gated_fusion(c, _product(c, weight, bias).to(c.dtype), chosen)


def _product(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W c + b in the dtype that autocast or the widest argument asks for."""
    if torch.is_autocast_enabled(c.device.type) and c.dtype != torch.float64:
        # Autocast leaves float64 as it is.
        return linear(c, *(_not_double(parameter) for parameter in (weight, bias)))
    widest = torch.promote_types(torch.promote_types(c.dtype, weight.dtype), bias.dtype)
    return linear(c.to(widest), weight.to(widest), bias.to(widest))


def _not_double(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor
