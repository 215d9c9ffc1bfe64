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

    def frames_of(self, index: int) -> Tensor | None:
        """(frames, classes) of one clip, padding left out; None of a network without."""
        if self.frame is None:
            return None
        count = self.frame.shape[1] if self.mask is None else int(self.mask[index].sum())
        return self.frame[index, :count]
