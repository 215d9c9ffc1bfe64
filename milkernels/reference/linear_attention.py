"""Attention over a row by two linear layers.

Source: [D] Deshmukh, Raj and Singh, "Multi-task learning for interpretable weakly labelled sound
event detection", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from milkernels.reference.frames import sigmoid, without_autocast


def linear_attention_pool(
    z: Tensor,
    att_weight: Tensor,
    att_bias: Tensor,
    cla_weight: Tensor,
    cla_bias: Tensor,
    variant: str = "paper",
) -> Tensor:
    """y = Σ_l softmax_l(σ(z Waᵀ + ba)) (z Wcᵀ + bc) [D, eq. 8-11]; `variant="code"` has the sigmoid
    on the class branch instead."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    rows, *layers = (tensor.to(dtype) for tensor in (z, att_weight, att_bias, cla_weight, cla_bias))
    # Autocast would round to half precision what was widened above.
    with without_autocast(z.device):
        attention, values = linear(rows, *layers[:2]), linear(rows, *layers[2:])
    if variant == "paper":
        attention = sigmoid(attention)
    else:
        values = sigmoid(values)
    y = (attention.softmax(-1) * values).sum(-1)
    if values.shape[-1] == 0:
        return y.to(z.dtype)
    # An average lies between its smallest and its largest value: rounding may not carry it over.
    low, high = values.detach().aminmax(dim=-1)
    return (y + (y.detach().clamp(low, high) - y.detach())).to(z.dtype)
