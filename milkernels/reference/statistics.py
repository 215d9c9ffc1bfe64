"""Statistics pooling: weighted mean and standard deviation over frames, head by head.

Source: [G] Hong et al., "Gated multi-head attention pooling for weakly labelled audio tagging"
(GMAP), 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import Frames


def attention_stats_pool(
    h: Tensor, query: Tensor, mask: Tensor | None = None, dim: int = -1, eps: float = 1e-7
) -> Tensor:
    """c_j = [μ_j, σ_j] with weights exp(v_jᵀ h_tj) / Σ exp(v_jᵀ h_tj). [G, eqs. 9 and 10]"""
    values = Frames(h, dim, mask, False)
    heads = values.x.unflatten(1, tuple(query.shape))
    # No matrix product, which autocast would round in both directions.
    scores = (heads * query.to(heads.dtype)[..., None]).sum(2)
    return values.restore(_statistics(heads, Frames(scores, -1, mask, False), eps))


def weighted_stats_pool(
    h: Tensor, scores: Tensor, mask: Tensor | None = None, dim: int = -1, eps: float = 1e-7
) -> Tensor:
    """c_j = [μ_j, σ_j] with weights exp(s_tj) / Σ exp(s_tj). [G, eq. 10]"""
    values = Frames(h, dim, mask, False)
    scored = Frames(scores, dim, mask, False)
    bags, count, frames = scored.x.shape
    channels = values.x.shape[1]
    heads = values.x.reshape(bags, count, channels // max(count, 1), frames)
    return values.restore(_statistics(heads, scored, eps))


def _statistics(heads: Tensor, scores: Frames, eps: float) -> Tensor:
    """(B, 2D) of h as (B, H, D/H, T): per head its means, then its deviations."""
    weights = scores.weights(scores.x)[:, :, None, :]
    mean = (weights * heads).sum(-1)
    variance = (weights * (heads - mean[..., None]).square()).sum(-1)
    deviation = torch.where(variance <= eps, eps, variance).sqrt()
    has_weight = (weights.detach() != 0).any(-1)
    deviation = torch.where(has_weight, deviation, 0)
    return torch.stack([mean, deviation], 2).flatten(1)
