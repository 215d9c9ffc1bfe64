"""What every detector returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class DetectorOutput:
    """Probabilities of a batch of clips.

    Attributes:
        clip: (batch, classes) probability that the class occurs in the clip, float32.
        frame: (batch, frames, classes) probability of the class at each frame.
        mask: (batch, frames) bool, True for a real frame; None where all of them are.
        penalty: what the pooling adds to the loss.
    """

    clip: Tensor
    frame: Tensor
    mask: Tensor | None = None
    penalty: Tensor | float = 0.0


def frame_mask(lengths: Tensor, frames: int, device: torch.device) -> Tensor:
    """(batch, frames) bool, True for the first `lengths` frames of each clip."""
    return torch.arange(frames, device=device) < lengths.to(device).unsqueeze(1)
