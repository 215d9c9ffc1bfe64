"""The gated attention of attention-based deep MIL (Ilse, Tomczak and Welling, 2018, eq. 9)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from milkernels import validation
from milkernels.compat.head import Head, wide


class GatedAttention(Head):
    r"""Bag embedding z of instances h_k.

    $$z = \sum_k a_k h_k, \quad
    a = \mathrm{softmax}_k(w^\top (\tanh(V h_k) \odot \sigma(U h_k)))$$

    V and U share one matrix product, so the instances are read once for both.

    Args:
        in_features: width of an instance's embedding (M in the authors' program).
        hidden: width of the attention's layer (L).
        branches: attentions side by side (ATTENTION_BRANCHES).

    >>> embedding, weights = GatedAttention(in_features=512)(torch.randn(1000, 512))
    >>> embedding.shape, weights.shape
    (torch.Size([1, 512]), torch.Size([1, 1000]))
    """

    parts = ("attention_V", "attention_U", "attention_w")

    def __init__(self, in_features: int = 500, hidden: int = 128, branches: int = 1) -> None:
        super().__init__()
        self.attention_V = nn.Sequential(nn.Linear(in_features, hidden), nn.Tanh())
        self.attention_U = nn.Sequential(nn.Linear(in_features, hidden), nn.Sigmoid())
        self.attention_w = nn.Linear(hidden, branches)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bag embeddings (branches, in_features) and weights (branches, instances) of one bag h
        (instances, in_features); with (batch, instances, in_features) both have a batch axis, and
        `mask` (batch, instances) is True for a real instance. A bag without any gives 0."""
        if mask is not None:
            if h.dim() != 3:
                raise ValueError(
                    f"mask: expected None beside one bag h, got {validation.shown(mask)}"
                )
            validation.mask_of(mask, h.shape[0], h.shape[1], h.device, "h")
        value, gate = cast(nn.Linear, self.attention_V[0]), cast(nn.Linear, self.attention_U[0])
        weight = torch.cat([value.weight, gate.weight])
        bias = torch.cat([value.bias, gate.bias])
        hidden, gates = linear(h, weight, bias).chunk(2, -1)
        scores = self.attention_w(hidden.tanh() * gates.sigmoid()).transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], -torch.inf)
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, :], 0)
            h = h.masked_fill(~mask[:, :, None], 0)
        return weights @ h, weights

    @classmethod
    def resembles(cls, module: nn.Module) -> bool:
        if not super().resembles(module):
            return False
        branches = {"attention_V": nn.Tanh, "attention_U": nn.Sigmoid}
        return all(_is_branch(getattr(module, name), kind) for name, kind in branches.items())

    @classmethod
    def example(cls, module: Any) -> tuple[Any, ...]:
        return (wide(7, module.attention_V[0].in_features),)


def _is_branch(module: nn.Module, activation: type[nn.Module]) -> bool:
    return (
        isinstance(module, nn.Sequential)
        and len(module) == 2
        and isinstance(module[0], nn.Linear)
        and isinstance(module[1], activation)
    )
