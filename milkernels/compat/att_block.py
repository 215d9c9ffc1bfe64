"""Attention over frames beside a class branch: PANNs' AttBlock and BirdCLEF's AttBlockV2."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from milkernels import functional
from milkernels.compat.head import Head, is_pointwise, wide


class _AttentionBlock(Head):
    """Two convolutions of one frame, one for scores and one for classes."""

    parts = ("att", "cla")
    score_activation = ""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        need_weights: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ("linear", "sigmoid"):
            raise ValueError(f"activation: expected 'linear' or 'sigmoid', got {activation!r}")
        self.activation = activation
        self.need_weights = need_weights
        self.att = nn.Conv1d(in_features, out_features, kernel_size=1)
        self.cla = nn.Conv1d(in_features, out_features, kernel_size=1)
        for layer in (self.att, self.cla):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Clip values (batch, classes), attention weights and frame values (batch, classes, frames)
        of x (batch, in_features, frames). `mask` (batch, frames) is True for a real frame."""
        scores = self.att(x)
        frames = self.cla(x)
        if self.activation == "sigmoid":
            frames = frames.sigmoid()
        clip = functional.attention_pool(frames, scores, self.score_activation, mask=mask)
        if not self.need_weights:
            return clip, None, frames
        weights = functional.frame_weights(
            "attention", frames, scores, self.score_activation, mask=mask
        )
        return clip, weights, frames

    @classmethod
    def resembles(cls, module: nn.Module) -> bool:
        layers = (getattr(module, name, None) for name in cls.parts)
        return all(is_pointwise(layer) for layer in layers) and hasattr(module, "activation")

    @classmethod
    def example(cls, module: Any) -> tuple[Any, ...]:
        # Scores beyond any clamp's bound, and within it.
        channels = module.att.in_channels
        scale = torch.cat([torch.full((20,), 0.5), torch.full((3,), 100.0)])
        return (wide(2, channels, 23) * scale.double(),)


class AttBlock(_AttentionBlock):
    r"""PANNs' AttBlock (Kong et al., 2020), with att(x) clamped to ±10.

    $$y = \sum_t p_t \, \mathrm{cla}(x)_t, \quad p = \mathrm{softmax}_t(\mathrm{att}(x))$$

    `bn_att` is loaded and, as in the original, not used.

    Args:
        n_in: channels of the input.
        n_out: classes.
        activation: of the class branch, "linear" or "sigmoid".
        temperature: kept and, as in the original, not used.
        need_weights: return the attention weights too, which nothing else would store. Without
            them None stands in their place.

    >>> clip, weights, frames = AttBlock(64, 17, activation="sigmoid")(torch.randn(4, 64, 50))
    >>> clip.shape, weights.shape, frames.shape
    (torch.Size([4, 17]), torch.Size([4, 17, 50]), torch.Size([4, 17, 50]))
    """

    optional_parts = ("bn_att",)
    score_activation = "clamp"

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: str = "linear",
        temperature: float = 1.0,
        need_weights: bool = True,
    ) -> None:
        super().__init__(n_in, n_out, activation, need_weights)
        self.temperature = temperature
        self.bn_att = nn.BatchNorm1d(n_out)


class AttBlockV2(_AttentionBlock):
    r"""BirdCLEF's AttBlockV2.

    $$y = \sum_t p_t \, \mathrm{cla}(x)_t, \quad p = \mathrm{softmax}_t(\tanh(\mathrm{att}(x)))$$

    Args:
        in_features: channels of the input.
        out_features: classes.
        activation: of the class branch, "linear" or "sigmoid".
        need_weights: return the attention weights too, which nothing else would store. Without
            them None stands in their place.

    >>> block = AttBlockV2(64, 17, activation="sigmoid", need_weights=False)
    >>> clip, weights, frames = block(torch.randn(4, 64, 50))
    >>> weights is None
    True
    """

    score_activation = "tanh"
