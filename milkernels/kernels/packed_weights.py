"""Weights of packed instances that are computed in plain PyTorch before the kernels run: those of
ranks, which need a sort, and shares of the softmax over classes."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.family import SHARE_FLOOR
from milkernels.kernels import tiles
from milkernels.reference.weighted_average import activate


def ranks(x: Tensor, offsets: Tensor) -> Tensor:
    """Place (instances, classes) of each instance in its bag, 0 for the largest, the earlier of
    equals first: sorted by value, then stably by bag."""
    instances, bags = x.shape[0], offsets.shape[0] - 1
    if x.numel() == 0:
        return x.new_empty(x.shape, dtype=torch.int64)
    positions = torch.arange(instances, device=x.device)
    ends = offsets[1:].contiguous().to(torch.int64)
    bag = torch.searchsorted(ends, positions, right=True).clamp(max=bags - 1)
    order = x.sort(dim=0, descending=True, stable=True).indices
    sorted_bags = bag[order].sort(dim=0, stable=True)
    place = positions[:, None] - offsets.to(torch.int64)[sorted_bags.values]
    instance = order.gather(0, sorted_bags.indices)
    # Nothing is below 0 but with wrong offsets.
    return torch.empty_like(place).scatter_(0, instance, place.clamp(min=0))


def of_ranks(x: Tensor, ranks: Tensor, decay: float) -> Tensor:
    """decay^rank, NaN for a NaN, which thus spoils its bag and class."""
    weights = torch.pow(decay, ranks.double()).to(tiles.arithmetic_dtype(x))
    return weights.masked_fill_(x.isnan(), torch.nan)


def of_classes(scores: Tensor, activation: str | None) -> Tensor:
    """A class's share of the softmax of activated scores at each instance, held above a floor."""
    return _shares(scores, activation).clamp_(SHARE_FLOOR, 1)


def _shares(scores: Tensor, activation: str | None) -> Tensor:
    scores = scores.to(tiles.arithmetic_dtype(scores))
    return activate(scores, activation).softmax(1)


class ToScores:
    """A step after a backward launch: what the shares' gradient makes of the scores'."""

    def __init__(self, scores: Tensor, activation: str | None, scores_gradient: Tensor) -> None:
        self._scores = scores
        self._activation = activation
        self._scores_gradient = scores_gradient
        self.weights = of_classes(scores, activation)
        self.weights_gradient = torch.empty_like(self.weights)

    def run(self) -> None:
        share = _shares(self._scores, self._activation)
        # Nothing is sent back past the clamp.
        back = self.weights_gradient.masked_fill_(share < SHARE_FLOOR, 0)
        gradient = share * (back - (share * back).sum(1, keepdim=True))
        scores = self._scores.to(share.dtype)
        if self._activation == "sigmoid":
            gradient *= scores.sigmoid() * (-scores).sigmoid()
        elif self._activation == "tanh":
            gradient *= 1 - scores.tanh() ** 2
        elif self._activation == "clamp":
            gradient *= scores == activate(scores, "clamp")
        self._scores_gradient.copy_(gradient)
