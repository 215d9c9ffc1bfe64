"""What the frame-level poolings share: layout, mask, sigmoid, normalised weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from milkernels.family import WEIGHT_FLOOR


def sigmoid(raw: Tensor) -> Tensor:
    """σ(raw) with a derivative that keeps its digits where σ rounds to 1."""
    return torch.where(raw > 0, 1 - (-raw).sigmoid(), raw.sigmoid())


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block whose products no autocast rounds. Devices without autocast, as the meta device,
    refuse to have it disabled."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Frames:
    """Frame values as (B, C, T) in the arithmetic dtype, with masked frames set to a harmless 0."""

    def __init__(self, x: Tensor, dim: int, mask: Tensor | None, from_logits: bool) -> None:
        self._dim = dim
        self._dtype = x.dtype
        self._valid = mask
        self.from_logits = from_logits
        self.raw = self.arrange(x)
        self.valid = (
            torch.ones_like(self.raw, dtype=torch.bool)
            if mask is None
            else mask[:, None, :].expand_as(self.raw)
        )
        self.x = sigmoid(self.raw) if from_logits else self.raw

    def arrange(self, tensor: Tensor) -> Tensor:
        """`tensor` as (B, C, T), in float32 at least, masked frames 0."""
        tensor = tensor if self._dim in (-1, 2) else tensor.transpose(1, 2)
        if tensor.dtype != torch.float64:
            tensor = tensor.float()
        return tensor if self._valid is None else tensor.masked_fill(~self._valid[:, None, :], 0)

    def per_class(self, parameter: Tensor) -> Tensor:
        return parameter.to(self.x.dtype)[:, None]

    def log_x(self) -> Tensor:
        if self.from_logits:
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
        """Σ p_i x_i with weights exp(log_weight), in x's own dtype."""
        return self.restore(self.exact_average(log_weight))

    def exact_average(self, log_weight: Tensor) -> Tensor:
        """`average` in the arithmetic dtype."""
        return self.weigh(self.weights(log_weight))

    def weigh(self, weights: Tensor) -> Tensor:
        """Σ p_i x_i for normalised weights, held between the smallest and the largest frame, in the
        arithmetic dtype."""
        y = (weights * self.x).sum(-1)
        return self.held(y, (weights.detach() != 0).any(-1))

    def held(self, y: Tensor, where: Tensor) -> Tensor:
        """`y` between the smallest and the largest frame, in the bags of `where`."""
        if self.x.shape[-1] == 0:
            return y
        held = torch.where(where, y.detach().clamp(*self.bounds()), y.detach())
        return held + (y - y.detach())

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest real frame of each bag; inf and -inf of none."""
        frames = self.x.detach()
        low = frames.masked_fill(~self.valid, torch.inf).amin(-1)
        return low, frames.masked_fill(~self.valid, -torch.inf).amax(-1)

    def by_layout(self, tensor: Tensor) -> Tensor:
        """A (bags, classes, frames) tensor in the input's layout."""
        return tensor if self._dim in (-1, 2) else tensor.transpose(1, 2)

    def restore(self, y: Tensor) -> Tensor:
        return y.to(self._dtype)
