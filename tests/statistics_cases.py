"""Embeddings with a query or scores, for the poolings that give a mean and a deviation."""

from __future__ import annotations

import math

import torch
from cases import Case

NAMES = ("attention_stats", "weighted_stats")


class StatisticsCase(Case):
    """h and its query or scores; two results for each channel."""

    def to(self, dtype):
        return StatisticsCase(
            self.name, [tensor.to(dtype) for tensor in self.tensors], self.keywords
        )

    def bag_gradient(self):
        bags, channels = self.x.shape[0], self.x.shape[3 - self.dim]
        values = torch.arange(2 * bags * channels, device=self.x.device) % 7 - 3
        return values.reshape(bags, 2 * channels).to(self.x.dtype)


def stats_case(
    name,
    bags=2,
    channels=12,
    frames=37,
    heads=3,
    *,
    dim=-1,
    masked=False,
    dtype=torch.float32,
    device="cpu",
):
    def frames_of(count):
        return torch.randn((bags, frames, count) if dim == 1 else (bags, count, frames))

    if name == "attention_stats":
        other = torch.randn(heads, channels // heads) / math.sqrt(channels // heads)
    else:
        other = frames_of(heads)
    keywords = {"dim": dim}
    if masked:
        mask = torch.rand(bags, frames) < 0.7
        mask[:, 0] = True
        keywords["mask"] = mask.to(device)
    tensors = [tensor.to(device, dtype) for tensor in (frames_of(channels), other)]
    return StatisticsCase(name, tensors, keywords)
