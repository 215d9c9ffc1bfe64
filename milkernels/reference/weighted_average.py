"""The weighted averages, from the papers' formulas.

Sources: [W] Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions
for sound event detection with weak labeling", 2019. [L] Liu et al., "Power pooling", 2021. [M]
McFee, Salamon and Bello, "Adaptive pooling operators for weakly labeled sound event detection",
2018. [Xu] Xu et al., "Large-scale weakly supervised audio classification using gated convolutional
neural network", 2018, with the clamp of the DESED baseline system.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.family import SCORE_CLAMP
from milkernels.reference.class_attention import class_weights
from milkernels.reference.frames import Frames, sigmoid


def mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i / n. [W, table 1]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(mean_log_weight(values))


def linear_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i² / Σ x_i. [W, table 1]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(linear_softmax_log_weight(values))


def exp_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i exp(x_i) / Σ exp(x_i). [W, table 1]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(exp_softmax_log_weight(values))


def auto_pool(
    x: Tensor,
    alpha: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i exp(α_c x_i) / Σ exp(α_c x_i). [M, eq. 3]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(auto_log_weight(values, alpha))


def power_pool(
    x: Tensor,
    power: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = Σ x_i x_i^n_c / Σ x_i^n_c. [L, eq. 4]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(power_log_weight(values, power))


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
    values = Frames(x, dim, mask, from_logits)
    return values.average(power_exp_log_weight(values, power, alpha))


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
    """y = Σ x_i w_i / Σ w_i with w_i = exp(a(s_i)). [W, table 1] Over the classes w_i is a class's
    share of their softmax at the frame, clamped to [1e-7, 1]. [Xu, eq. 4]"""
    values = Frames(x, dim, mask, from_logits)
    activated = attention_log_weight(values, scores, score_activation)
    if normalize == "classes":
        return values.restore(values.weigh(class_weights(values, activated)))
    return values.average(activated)


def mean_log_weight(values: Frames) -> Tensor:
    return torch.zeros_like(values.x)


def linear_softmax_log_weight(values: Frames) -> Tensor:
    return values.log_x()


def exp_softmax_log_weight(values: Frames) -> Tensor:
    return values.x


def auto_log_weight(values: Frames, alpha: Tensor) -> Tensor:
    return values.per_class(alpha) * values.x


def power_log_weight(values: Frames, power: Tensor) -> Tensor:
    return values.per_class(power) * values.log_x()


def power_exp_log_weight(values: Frames, power: Tensor, alpha: Tensor) -> Tensor:
    return power_log_weight(values, power) + auto_log_weight(values, alpha)


def attention_log_weight(
    values: Frames, scores: Tensor, score_activation: str | None = None
) -> Tensor:
    return activate(values.arrange(scores), score_activation)


def activate(scores: Tensor, activation: str | None) -> Tensor:
    if activation is None:
        return scores
    if activation == "sigmoid":
        return sigmoid(scores)
    if activation == "tanh":
        return scores.tanh()
    return scores.clamp(-SCORE_CLAMP, SCORE_CLAMP)
