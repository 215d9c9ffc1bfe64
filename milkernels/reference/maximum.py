"""The maximum over frames, and its sum with the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import Frames


def max_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = max x_i; the first maximal frame takes the gradient. [W, table 1]"""
    values = Frames(x, dim, mask, from_logits)
    return values.restore(_maximum(values))


def max_mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = max x_i + Σ x_i / n; the first maximal frame takes the maximum's gradient. [K]"""
    values = Frames(x, dim, mask, from_logits)
    mean = values.exact_average(torch.zeros_like(values.x))
    return values.restore(_maximum(values) + mean)


def first_maximum(values: Frames) -> Tensor:
    """The frame (bags, classes, 1) of each bag's first maximum; there must be frames."""
    # Ranked before the sigmoid, which sends many large logits to the same 1.0.
    ranked = values.raw.detach().masked_fill(~values.valid, -torch.inf)
    peak = ranked.amax(-1, keepdim=True)
    is_peak = ((ranked == peak) | (ranked.isnan() & peak.isnan())) & values.valid
    return is_peak.to(torch.int8).argmax(-1, keepdim=True)


def _maximum(values: Frames) -> Tensor:
    if values.x.shape[-1] == 0:
        return values.x.sum(-1)
    chosen = values.x.gather(-1, first_maximum(values)).squeeze(-1)
    return torch.where(values.valid.any(-1), chosen, 0)
