"""Noisy-or."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from milkernels.reference.frames import Frames, sigmoid


def noisy_or_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = 1 - Π (1 - x_i). [V]

    With factors, not their logarithms: a frame at 1 has a gradient, and `prod` the derivatives of
    a product with zeros, to any order.
    """
    values = Frames(x, dim, mask, from_logits)
    inactive = sigmoid(-values.raw) if from_logits else 1 - values.x
    return values.restore(1 - inactive.masked_fill(~values.valid, 1).prod(-1))


def log_inactive(values: Frames) -> Tensor:
    """log(1 - x_i), of probabilities."""
    return logsigmoid(-values.raw) if values.from_logits else (-values.x).log1p()
