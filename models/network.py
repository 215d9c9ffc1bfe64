"""What every network has beside its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.output import DetectorOutput


class Network(nn.Module):
    """Base of the published systems' networks.

    Attributes:
        features: what it hears, one of `models.features.PRESETS`.
        poolings: names of those that it takes, and `default_pooling` its own.
        fixed_frames: whether its weights fix the number of frames, then at most `num_frames`.
        has_frames: whether it has probabilities of frames.
        frame_reduction: input frames per output frame.
    """

    features: str
    default_pooling: str
    poolings: tuple[str, ...]
    fixed_frames: bool
    has_frames: bool
    frame_reduction: int
    num_frames: int
    forward: Callable[..., DetectorOutput]


def in_channels_last(layers: Any) -> None:
    """Let convolutions keep their weights as their maps lie in memory. PyTorch's own annotations of
    `Module.to` lack this form."""
    layers.to(memory_format=torch.channels_last)
