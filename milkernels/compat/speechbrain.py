"""SpeechBrain's attentive statistics pooling, of its ECAPA-TDNN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d

from milkernels import functional, validation
from milkernels.compat.head import Head, wide


class _Convolution(nn.Module):
    """SpeechBrain's wrapper of a convolution of one frame: its parameters are below `conv`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _BatchNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _TDNNBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Convolution(in_channels, out_channels)
        self.activation = nn.ReLU()
        self.norm = _BatchNorm(out_channels)


class AttentiveStatisticsPooling(Head):
    """Mean and standard deviation of each channel under attention weights of its own.

    The original concatenates each frame with the bag's mean and deviation (three times the memory)
    before its first layer; that layer is linear, so here each part goes through its own columns.

    Args:
        channels: of the input.
        attention_channels: width of the layer that scores.
        global_context: score each frame beside the bag's mean and deviation.

    >>> AttentiveStatisticsPooling(64)(torch.randn(4, 64, 50)).shape
    torch.Size([4, 128, 1])
    """

    parts = ("tdnn", "conv")
    optional_parts = ("tanh",)

    def __init__(
        self, channels: int, attention_channels: int = 128, global_context: bool = True
    ) -> None:
        super().__init__()
        self.eps = 1e-12
        self.global_context = global_context
        self.tdnn = _TDNNBlock(channels * (3 if global_context else 1), attention_channels)
        self.conv = _Convolution(attention_channels, channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[mean, deviation] (batch, 2·channels, 1) of x (batch, channels, frames). `lengths`
        (batch,) are the real parts of the bags, relative to the longest; one stands for all, and
        they may be on another device."""
        channels = x.shape[1]
        mask = None if lengths is None else _real_frames(lengths, x)
        layer = self.tdnn.conv.conv
        hidden = conv1d(x, layer.weight[:, :channels], layer.bias)
        if self.global_context:
            uniform = x.new_zeros((1, channels))
            context = functional.attention_stats_pool(x, uniform, mask, eps=self.eps)
            hidden = hidden + (context @ layer.weight[:, channels:, 0].T)[:, :, None]
        hidden = self.tdnn.norm(self.tdnn.activation(hidden))
        dropout = getattr(self.tdnn, "dropout", None)
        hidden = hidden if dropout is None else dropout(hidden)
        scores = self.conv(hidden.tanh())
        pooled = functional.weighted_stats_pool(x, scores.to(x.dtype), mask, eps=self.eps)
        # One channel a head: mean and deviation alternate.
        return pooled.unflatten(1, (channels, 2)).transpose(1, 2).flatten(1)[:, :, None]

    @classmethod
    def resembles(cls, module: nn.Module) -> bool:
        layer = getattr(getattr(getattr(module, "tdnn", None), "conv", None), "conv", None)
        return super().resembles(module) and isinstance(layer, nn.Conv1d)

    @classmethod
    def example(cls, module: Any) -> tuple[Any, ...]:
        wide_layer = module.tdnn.conv.conv.in_channels
        channels = wide_layer // 3 if module.global_context else wide_layer
        return wide(3, channels, 17), torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64)


def _real_frames(lengths: Tensor, x: Tensor) -> Tensor:
    """The mask (batch, frames) of relative lengths."""
    bags, _, frames = x.shape
    validation.relative_lengths(lengths, bags)
    ends = lengths[:, None] * frames
    position = torch.arange(frames, device=ends.device, dtype=ends.dtype)
    return (position < ends).expand(bags, frames).to(x.device)
