"""The poolings as people write them in eager PyTorch: what the kernels must not be less exact than.

Straight from the papers' formulas in the tensors' own dtype, for (batch, classes, frames) without
masks; no guard that the formula does not have but the floor under log x.
"""

from __future__ import annotations

import math

import torch
from cases import DECAY
from torch import Tensor

FLOOR = 1e-7


def mean(x: Tensor) -> Tensor:
    return x.mean(-1)


def max(x: Tensor) -> Tensor:
    return x.amax(-1)


def max_mean(x: Tensor) -> Tensor:
    return x.amax(-1) + x.mean(-1)


def noisy_or(x: Tensor) -> Tensor:
    return 1 - (1 - x).prod(-1)


def log_mean_exp(x: Tensor, sharpness: Tensor) -> Tensor:
    return (torch.logsumexp(sharpness[:, None] * x, -1) - math.log(x.shape[-1])) / sharpness


def linear_softmax(x: Tensor) -> Tensor:
    return _weighted(x, x.clamp(min=FLOOR))


def exp_softmax(x: Tensor) -> Tensor:
    return (torch.softmax(x, -1) * x).sum(-1)


def auto(x: Tensor, alpha: Tensor) -> Tensor:
    return (torch.softmax(alpha[:, None] * x, -1) * x).sum(-1)


def power(x: Tensor, power: Tensor) -> Tensor:
    return _weighted(x, x.clamp(min=FLOOR) ** power[:, None])


def power_exp(x: Tensor, power: Tensor, alpha: Tensor) -> Tensor:
    weight = x.clamp(min=FLOOR) ** power[:, None] * torch.exp(alpha[:, None] * x)
    return _weighted(x, weight)


def attention(x: Tensor, scores: Tensor, score_activation: str | None = None) -> Tensor:
    return (torch.softmax(_activate(scores, score_activation), -1) * x).sum(-1)


def class_attention(x: Tensor, scores: Tensor, score_activation: str | None = None) -> Tensor:
    share = torch.softmax(_activate(scores, score_activation), 1).clamp(1e-7, 1)
    return _weighted(x, share)


def rank(x: Tensor, decay: float = DECAY) -> Tensor:
    weight = decay ** torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
    return _weighted(x.sort(dim=-1, descending=True, stable=True).values, weight)


def _activate(scores: Tensor, activation: str | None) -> Tensor:
    activations = {
        None: lambda score: score,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "clamp": lambda score: score.clamp(-10, 10),
    }
    return activations[activation](scores)


def _weighted(x: Tensor, weight: Tensor) -> Tensor:
    return (weight * x).sum(-1) / weight.sum(-1)


def attention_stats(h: Tensor, query: Tensor, eps: float = 1e-7) -> Tensor:
    heads = h.unflatten(1, tuple(query.shape))
    return _statistics(heads, torch.einsum("bhwt,hw->bht", heads, query), eps)


def weighted_stats(h: Tensor, scores: Tensor, eps: float = 1e-7) -> Tensor:
    return _statistics(h.unflatten(1, (scores.shape[1], -1)), scores, eps)


def gated_fusion(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.sigmoid(c @ weight.T + bias) * c


def _statistics(heads: Tensor, scores: Tensor, eps: float) -> Tensor:
    weight = torch.softmax(scores, -1)[:, :, None]
    mean = (weight * heads).sum(-1)
    variance = (weight * (heads - mean[..., None]) ** 2).sum(-1)
    return torch.cat([mean, variance.clamp(min=eps).sqrt()], -1).flatten(1)
