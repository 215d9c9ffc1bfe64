"""The poolings as people write them in eager PyTorch, for both layouts: what the kernels race.

Plain and without waste: no loop, no copy, no guard that the formula does not have but the floor
under log x. `dim` is the frame axis, -1 for (batch, classes, frames) and 1 for (batch, frames,
classes).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-7

#: Of the rank pooling.
DECAY = 0.999


def mean(x: Tensor, *, dim: int) -> Tensor:
    return x.mean(dim)


def max(x: Tensor, *, dim: int) -> Tensor:
    # amax is the fast one forward, but its gradient shares out ties, slowly.
    return x.max(dim).values if x.requires_grad else x.amax(dim)


def max_mean(x: Tensor, *, dim: int) -> Tensor:
    return max(x, dim=dim) + x.mean(dim)


def noisy_or(x: Tensor, *, dim: int) -> Tensor:
    return 1 - (1 - x).prod(dim)


def log_mean_exp(x: Tensor, sharpness: Tensor, *, dim: int) -> Tensor:
    total = torch.logsumexp(_per_class(sharpness, dim) * x, dim)
    return (total - math.log(x.shape[dim])) / sharpness


def linear_softmax(x: Tensor, *, dim: int) -> Tensor:
    return (x * x).sum(dim) / x.clamp(min=FLOOR).sum(dim)


def exp_softmax(x: Tensor, *, dim: int) -> Tensor:
    return (torch.softmax(x, dim) * x).sum(dim)


def auto(x: Tensor, alpha: Tensor, *, dim: int) -> Tensor:
    return (torch.softmax(_per_class(alpha, dim) * x, dim) * x).sum(dim)


def power(x: Tensor, power: Tensor, *, dim: int) -> Tensor:
    return _weighted(x, x.clamp(min=FLOOR) ** _per_class(power, dim), dim)


def power_exp(x: Tensor, power: Tensor, alpha: Tensor, *, dim: int) -> Tensor:
    powers = x.clamp(min=FLOOR) ** _per_class(power, dim)
    return _weighted(x, powers * torch.exp(_per_class(alpha, dim) * x), dim)


def attention(x: Tensor, scores: Tensor, *, dim: int) -> Tensor:
    return (torch.softmax(scores, dim) * x).sum(dim)


def class_attention(x: Tensor, scores: Tensor, *, dim: int) -> Tensor:
    classes = 2 if dim == 1 else 1
    return _weighted(x, torch.softmax(scores, classes).clamp(FLOOR, 1), dim)


def rank(x: Tensor, decay: float = DECAY, *, dim: int) -> Tensor:
    weight = decay ** torch.arange(x.shape[dim], dtype=x.dtype, device=x.device)
    # The largest first; the sum does not ask which of equals that is.
    descending = x.sort(dim, descending=True).values
    return (descending * (weight[:, None] if dim == 1 else weight)).sum(dim) / weight.sum()


def attention_stats(h: Tensor, query: Tensor, *, dim: int) -> Tensor:
    if dim == 1:
        h = h.transpose(1, 2)
    heads, width = query.shape
    h = h.unflatten(1, (heads, width))
    weight = torch.softmax(torch.einsum("bhdt,hd->bht", h, query), -1)[:, :, None]
    mean = (weight * h).sum(-1)
    variance = (weight * h * h).sum(-1) - mean * mean
    return torch.cat([mean, variance.clamp(min=FLOOR).sqrt()], -1).flatten(1)


def linear_attention(
    z: Tensor, att_weight: Tensor, att_bias: Tensor, cla_weight: Tensor, cla_bias: Tensor
) -> Tensor:
    attention = torch.softmax(F.linear(z, att_weight, att_bias).sigmoid(), -1)
    return (attention * F.linear(z, cla_weight, cla_bias)).sum(-1)


def _per_class(parameter: Tensor, dim: int) -> Tensor:
    return parameter if dim == 1 else parameter[:, None]


def _weighted(x: Tensor, weight: Tensor, dim: int) -> Tensor:
    return (weight * x).sum(dim) / weight.sum(dim)
