"""Global weighted rank pooling, from the paper's formula.

Source: Kolesnikov and Lampert, "Seed, expand and constrain: three principles for weakly-supervised
image segmentation", 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import Frames


def rank_pool(
    x: Tensor,
    decay: float,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ_r d^r x_(r) / Σ_r d^r with x_(0) the largest frame. [section 3.2]"""
    values = Frames(x, dim, mask, from_logits)
    return values.restore(values.weigh(rank_weights(values, decay)))


def rank_weights(values: Frames, decay: float) -> Tensor:
    """Normalised weights (bags, classes, frames), NaN where a bag holds NaN."""
    # Ranked before the sigmoid, which sends many large logits to the same 1.0.
    raw = values.raw.detach()
    weight = (decay ** _ranks(raw, values.valid).double()).masked_fill(~values.valid, 0)
    total = weight.sum(-1, keepdim=True)
    weight = (weight / total.masked_fill(total == 0, 1)).to(raw.dtype)
    spoilt = raw.isnan().any(-1, keepdim=True) & values.valid
    return weight.masked_fill(spoilt, torch.nan)


def _ranks(raw: Tensor, valid: Tensor) -> Tensor:
    """Place of each frame among the real ones, 0 for the largest, the earlier of equals first."""
    order = raw.argsort(dim=-1, descending=True, stable=True)
    real_first = (
        valid.gather(-1, order).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    )
    return order.gather(-1, real_first).argsort(-1)
