"""What every detector returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class DetectorOutput:
    """Probabilities of a batch of clips.

    Attributes:
        clip: (batch, classes) probability that the class occurs in the clip, float32.
        frame: (batch, frames, classes) probability of the class at each frame; None of a network
            that tags clips alone.
        mask: (batch, frames) bool, True for a real frame; None where all of them are.
        penalty: what the network adds to the loss of its clip probabilities.
    """

    clip: Tensor
    frame: Tensor | None
    mask: Tensor | None = None
    penalty: Tensor | float = 0.0
