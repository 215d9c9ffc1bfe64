"""The heads that `milkernels.compat` stands in for, rewritten plainly from their formulas, with the
originals' parts and names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax


class AttBlock(nn.Module):
    """PANNs."""

    def __init__(self, n_in: int, n_out: int, activation: str = "linear") -> None:
        super().__init__()
        self.activation = activation
        self.att = nn.Conv1d(n_in, n_out, 1)
        self.cla = nn.Conv1d(n_in, n_out, 1)
        self.bn_att = nn.BatchNorm1d(n_out)

    def weights(self, x: Tensor) -> Tensor:
        return softmax(self.att(x).clamp(-10, 10), -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weights(x)
        frames = self.cla(x)
        if self.activation == "sigmoid":
            frames = frames.sigmoid()
        return (weights * frames).sum(2), weights, frames


class AttBlockV2(AttBlock):
    """BirdCLEF."""

    def __init__(self, in_features: int, out_features: int, activation: str = "linear") -> None:
        super().__init__(in_features, out_features, activation)
        del self.bn_att

    def weights(self, x: Tensor) -> Tensor:
        return softmax(self.att(x).tanh(), -1)


class CRNN(nn.Module):
    """DESED: the network is left out, its head stays."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.attention = True
        self.rnn = nn.Linear(in_features, in_features)
        self.dense = nn.Linear(in_features, num_classes)
        self.dense_softmax = nn.Linear(in_features, num_classes)

    def forward(
        self, x: Tensor, pad_mask: Tensor | None = None, classes_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.rnn(x)
        return self._get_logits_one_head(x, pad_mask, self.dense, self.dense_softmax, classes_mask)

    def _get_logits_one_head(
        self,
        x: Tensor,
        pad_mask: Tensor | None,
        dense: nn.Module,
        dense_softmax: nn.Module,
        classes_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        strong = dense(x).sigmoid()
        scores = dense_softmax(x)
        if pad_mask is not None:
            scores = scores.masked_fill(pad_mask.transpose(1, 2), -1e30)
        if classes_mask is not None:
            scores = scores.masked_fill(~classes_mask[:, None], -1e30)
        weights = softmax(scores, -1).clamp(1e-7, 1)
        weak = (strong * weights).sum(1) / weights.sum(1)
        if classes_mask is not None:
            strong = strong.masked_fill(~classes_mask[:, None], 0)
            weak = weak.masked_fill(~classes_mask, 0)
        return strong.transpose(1, 2), weak


class EarlierCRNN(nn.Module):
    """DESED's earlier versions, whose forward has the head's lines in it."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, num_classes)
        self.dense_softmax = nn.Linear(in_features, num_classes)


class Wrapped(nn.Module):
    """SpeechBrain wraps each layer in a module, which holds it under `name`."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self._name)(x)


class TDNNBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Wrapped("conv", nn.Conv1d(in_channels, out_channels, 1))
        self.activation = nn.ReLU()
        self.norm = Wrapped("norm", nn.BatchNorm1d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.conv(x)))


class AttentiveStatisticsPooling(nn.Module):
    """SpeechBrain."""

    def __init__(
        self, channels: int, attention_channels: int = 128, global_context: bool = True
    ) -> None:
        super().__init__()
        self.eps = 1e-12
        self.global_context = global_context
        self.tdnn = TDNNBlock(channels * (3 if global_context else 1), attention_channels)
        self.tanh = nn.Tanh()
        self.conv = Wrapped("conv", nn.Conv1d(attention_channels, channels, 1))

    def _statistics(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mean = (weights * x).sum(2)
        variance = (weights * (x - mean[:, :, None]).square()).sum(2)
        return mean, variance.clamp(self.eps).sqrt()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        bags, _, frames = x.shape
        lengths = x.new_ones(bags) if lengths is None else lengths
        mask = (torch.arange(frames) < lengths[:, None] * frames)[:, None, :]
        hidden = x
        if self.global_context:
            uniform = mask.to(x.dtype) / mask.sum(2, keepdim=True)
            context = [one[:, :, None].expand_as(x) for one in self._statistics(x, uniform)]
            hidden = torch.cat([x, *context], 1)
        scores = self.conv(self.tanh(self.tdnn(hidden)))
        weights = softmax(scores.masked_fill(~mask, -torch.inf), 2)
        return torch.cat(self._statistics(x, weights), 1)[:, :, None]


class GatedAttention(nn.Module):
    """Attention-based deep MIL."""

    def __init__(self, in_features: int, hidden: int, branches: int = 1) -> None:
        super().__init__()
        self.attention_V = nn.Sequential(nn.Linear(in_features, hidden), nn.Tanh())
        self.attention_U = nn.Sequential(nn.Linear(in_features, hidden), nn.Sigmoid())
        self.attention_w = nn.Linear(hidden, branches)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.attention_w(self.attention_V(h) * self.attention_U(h))
        weights = softmax(scores.T, 1)
        return weights @ h, weights
