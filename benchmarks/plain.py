"""The poolings of `benchmarks.eager` under the names and signatures of `milkernels.functional`, for
networks whose poolings are to be plain PyTorch. Without masks: no guard costs them anything."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import eager


class PlainFunctions:
    """Stands where a network looks for `functional`."""

    def __getattr__(self, name: str) -> object:
        if not name.endswith("_pool"):
            raise AttributeError(name)
        pooling = getattr(eager, name.removesuffix("_pool"))

        def pool(
            x: Tensor,
            *parameters: Tensor,
            dim: int = -1,
            mask: Tensor | None = None,
            from_logits: bool = False,
        ) -> Tensor:
            _refuse(mask)
            return pooling(x.sigmoid() if from_logits else x, *parameters, dim=dim)

        return pool

    def attention_pool(
        self,
        x: Tensor,
        scores: Tensor,
        score_activation: str | None = None,
        normalize: Literal["frames", "classes"] = "frames",
        dim: int = -1,
        mask: Tensor | None = None,
        from_logits: bool = False,
    ) -> Tensor:
        _refuse(mask)
        if score_activation == "sigmoid":
            scores = scores.sigmoid()
        elif score_activation is not None:
            raise ValueError(f"score_activation: no plain form of {score_activation!r}")
        pooling = eager.class_attention if normalize == "classes" else eager.attention
        return pooling(x.sigmoid() if from_logits else x, scores, dim=dim)

    def rank_pool(
        self,
        x: Tensor,
        decay: float,
        dim: int = -1,
        mask: Tensor | None = None,
        from_logits: bool = False,
    ) -> Tensor:
        _refuse(mask)
        return eager.rank(x.sigmoid() if from_logits else x, decay, dim=dim)

    def attention_stats_pool(
        self, h: Tensor, query: Tensor, mask: Tensor | None = None, dim: int = -1, eps: float = 0.0
    ) -> Tensor:
        _refuse(mask)
        return eager.attention_stats(h, query, dim=dim)

    def gated_fusion(self, c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.nn.functional.linear(c, weight, bias).sigmoid() * c

    def linear_attention_pool(self, z: Tensor, *layers: Any) -> Tensor:
        *weights, variant = layers
        if variant != "paper":
            raise ValueError(f"variant: no plain form of {variant!r}")
        return eager.linear_attention(z, *weights)


def _refuse(mask: Tensor | None) -> None:
    if mask is not None:
        raise ValueError("mask: the plain forms take none")
