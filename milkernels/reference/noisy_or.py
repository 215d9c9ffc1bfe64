"""Noisy-or."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from milkernels.reference.frames import Frames, sigmoid


def noisy_or_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = 1 - Π (1 - x_i). [V]

    Derivatives with factors, not their logarithms: a frame at 1 has a gradient, and `prod` the
    derivatives of a product with zeros, to any order. The value of a y near 0 by logarithms, which
    lose nothing in 1 - x.
    """
    values = Frames(x, dim, mask, from_logits)
    inactive = sigmoid(-values.raw) if from_logits else 1 - values.x
    y = 1 - inactive.masked_fill(~values.valid, 1).prod(-1)
    logarithm = log_inactive(values).detach().masked_fill(~values.valid, 0).sum(-1)
    exact = torch.where(logarithm > -0.5, -logarithm.expm1(), y.detach())
    return values.restore(y + (exact - y.detach()))


def log_inactive(values: Frames) -> Tensor:
    """log(1 - x_i), of probabilities."""
    return logsigmoid(-values.raw) if values.from_logits else (-values.x).log1p()
