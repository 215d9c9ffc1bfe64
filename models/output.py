"""What every detector returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from models.losses import clip_loss


@dataclass
class DetectorOutput:
    """Probabilities of a batch of clips.

    Attributes:
        clip: (batch, classes) probability that the class occurs in the clip, float32.
        frame_values: (batch, frames, classes) of which `frame` is made; None of a network that tags
            clips alone.
        mask: (batch, frames) bool, True for a real frame; None where all of them are.
        penalty: what the network adds to the loss of its clip probabilities.
        from_logits: whether `frame_values` are logits.
        loss_of_clips: `clip_loss` of (target, known), where the network knows more than `clip`.
    """

    clip: Tensor
    frame_values: Tensor | None
    mask: Tensor | None = None
    penalty: Tensor | float = 0.0
    from_logits: bool = False
    loss_of_clips: Callable[[Tensor, Tensor | None], Tensor] | None = None

    @cached_property
    def frame(self) -> Tensor | None:
        """(batch, frames, classes) probability of the class at each frame, or None. From logits it
        is computed when it is first asked for: learning from clips needs none of it."""
        if self.frame_values is None or not self.from_logits:
            return self.frame_values
        return self.frame_values.sigmoid()

    def clip_loss(self, target: Tensor, known: Tensor | None = None) -> Tensor:
        """Mean binary cross-entropy of the clips.

        Args:
            target: (batch, classes) from 0 to 1.
            known: (batch,) bool, the clips that count, one of them at least; None for all.
        """
        if self.loss_of_clips is not None:
            return self.loss_of_clips(target, known)
        if known is None:
            return clip_loss(self.clip, target)
        return clip_loss(self.clip[known], target[known])

    def frames_of(self, index: int) -> Tensor | None:
        """(frames, classes) of one clip, padding left out; None of a network without."""
        if self.frame is None:
            return None
        count = self.frame.shape[1] if self.mask is None else int(self.mask[index].sum())
        return self.frame[index, :count]
