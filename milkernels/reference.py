"""The oracle: every pooling in plain PyTorch, written from the papers' formulas.

Same names and signatures as `milkernels.functional`. Slow and differentiable to any order; float64
inputs give the truth that the kernels are held to. Half-precision inputs are computed in float32.

Sources: [W] Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions
for sound event detection with weak labeling", 2019. [L] Liu et al., "Power pooling", 2021. [M]
McFee, Salamon and Bello, "Adaptive pooling operators for weakly labeled sound event detection",
2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from milkernels.family import SCORE_CLAMP, WEIGHT_FLOOR


def mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i / n. [W, table 1]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(torch.zeros_like(values.x))


def max_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = max x_i; the first maximal frame takes the gradient. [W, table 1]"""
    values = _Frames(x, dim, mask, from_logits)
    if values.x.shape[-1] == 0:
        return values.restore(values.x.sum(-1))
    # Ranked before the sigmoid, which sends many large logits to the same 1.0.
    ranked = values.raw.detach().masked_fill(~values.valid, -torch.inf)
    peak = ranked.amax(-1, keepdim=True)
    is_peak = ((ranked == peak) | (ranked.isnan() & peak.isnan())) & values.valid
    first = is_peak.to(torch.int8).argmax(-1, keepdim=True)
    chosen = values.x.gather(-1, first).squeeze(-1)
    return values.restore(torch.where(values.valid.any(-1), chosen, 0))


def linear_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i² / Σ x_i. [W, table 1]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(values.log_x())


def exp_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i exp(x_i) / Σ exp(x_i). [W, table 1]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(values.x)


def auto_pool(
    x: Tensor,
    alpha: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i exp(α_c x_i) / Σ exp(α_c x_i). [M, eq. 3]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(values.per_class(alpha) * values.x)


def power_pool(
    x: Tensor,
    power: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i x_i^n_c / Σ x_i^n_c. [L, eq. 4]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(values.per_class(power) * values.log_x())


def power_exp_pool(
    x: Tensor,
    power: Tensor,
    alpha: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i w_i / Σ w_i with w_i = x_i^β_c exp(α_c x_i). [W, section 4]"""
    values = _Frames(x, dim, mask, from_logits)
    log_weight = values.per_class(power) * values.log_x() + values.per_class(alpha) * values.x
    return values.average(log_weight)


def attention_pool(
    x: Tensor,
    scores: Tensor,
    score_activation: str | None = None,
    normalize: str = "frames",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i w_i / Σ w_i with w_i = exp(a(s_i)). [W, table 1]"""
    values = _Frames(x, dim, mask, from_logits)
    return values.average(_activate(values.arrange(scores), score_activation))


def _activate(scores: Tensor, activation: str | None) -> Tensor:
    if activation is None:
        return scores
    if activation == "sigmoid":
        return scores.sigmoid()
    if activation == "tanh":
        return scores.tanh()
    return scores.clamp(-SCORE_CLAMP, SCORE_CLAMP)


class _Frames:
    """Frame values as (B, C, T) in the arithmetic dtype, with masked frames set to a harmless 0."""

    def __init__(self, x: Tensor, dim: int, mask: Tensor | None, from_logits: bool) -> None:
        self._dim = dim
        self._dtype = x.dtype
        self._valid = mask
        self._from_logits = from_logits
        self.raw = self.arrange(x)
        self.valid = (
            torch.ones_like(self.raw, dtype=torch.bool)
            if mask is None
            else mask[:, None, :].expand_as(self.raw)
        )
        self.x = self.raw.sigmoid() if from_logits else self.raw

    def arrange(self, tensor: Tensor) -> Tensor:
        """`tensor` as (B, C, T), in float32 at least, masked frames 0."""
        tensor = tensor if self._dim in (-1, 2) else tensor.transpose(1, 2)
        if tensor.dtype != torch.float64:
            tensor = tensor.float()
        return tensor if self._valid is None else tensor.masked_fill(~self._valid[:, None, :], 0)

    def per_class(self, parameter: Tensor) -> Tensor:
        return parameter.to(self.x.dtype)[:, None]

    def log_x(self) -> Tensor:
        if self._from_logits:
            return logsigmoid(self.raw)
        return self.x.clamp(min=WEIGHT_FLOOR).log()

    def weights(self, log_weight: Tensor) -> Tensor:
        """Normalised weights (B, C, T): exp(log_weight) over its sum, 0 on masked frames."""
        log_weight = log_weight.masked_fill(~self.valid, -torch.inf)
        if log_weight.shape[-1] == 0:
            return log_weight
        peak = log_weight.detach().amax(-1, keepdim=True)
        weight = (log_weight - peak.masked_fill(peak == -torch.inf, 0)).exp()
        total = weight.sum(-1, keepdim=True)
        return weight / total.masked_fill(total == 0, 1)

    def average(self, log_weight: Tensor) -> Tensor:
        """Σ p_i x_i, held between the smallest and the largest frame."""
        weights = self.weights(log_weight)
        y = (weights * self.x).sum(-1)
        if self.x.shape[-1] == 0:
            return self.restore(y)
        has_weight = (weights.detach() != 0).any(-1)
        frames = self.x.detach()
        low = frames.masked_fill(~self.valid, torch.inf).amin(-1)
        high = frames.masked_fill(~self.valid, -torch.inf).amax(-1)
        held = torch.where(has_weight, y.detach().clamp(low, high), y.detach())
        return self.restore(held + (y - y.detach()))

    def restore(self, y: Tensor) -> Tensor:
        return y.to(self._dtype)
