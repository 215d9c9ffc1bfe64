"""Gated fusion of a bag's embedding.

Source: [G] Hong et al., "Gated multi-head attention pooling for weakly labelled audio tagging"
(GMAP), 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import sigmoid


def gated_fusion(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """u = σ(W c + b) ⊙ c. [G, eq. 11]"""
    values = _in_arithmetic(c)
    return gate(c, values @ weight.to(values.dtype).T + bias.to(values.dtype))


def gate(c: Tensor, gate: Tensor) -> Tensor:
    """σ(gate) ⊙ c in c's dtype."""
    return (sigmoid(_in_arithmetic(gate)) * _in_arithmetic(c)).to(c.dtype)


def _in_arithmetic(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
