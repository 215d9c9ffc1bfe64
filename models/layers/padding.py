"""Which frames of a padded batch are real."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


def frame_mask(lengths: Tensor, frames: int, device: torch.device) -> Tensor:
    """(batch, frames) bool, True for the first `lengths` frames of each clip."""
    return torch.arange(frames, device=device) < lengths.to(device).unsqueeze(1)


class Padding:
    """The real frames of a batch of clips, the first `lengths` of each.

    Args:
        lengths: (batch,) on the CPU, where the packed GRU and the count of real frames need it.
        frames: of every clip, padding included.
        device: where the clips are.
    """

    def __init__(self, lengths: Tensor, frames: int, device: torch.device) -> None:
        self.lengths = lengths
        self.frames = frames
        self.device = device

    @cached_property
    def mask(self) -> Tensor:
        """(batch, frames) bool, True for a real frame."""
        return frame_mask(self.lengths, self.frames, self.device)

    @cached_property
    def real(self) -> Tensor:
        """Positions of the real frames among all frames of the batch, clip after clip."""
        # Found on the CPU: on a GPU the search would wait for everything before it.
        mask = frame_mask(self.lengths, self.frames, self.lengths.device)
        return mask.flatten().nonzero().squeeze(1).to(self.device, non_blocking=True)

    def fill(self, maps: Tensor, value: float = 0.0) -> Tensor:
        """Maps (batch, channels, frames, bands) with `value` in the padded frames."""
        return maps.masked_fill(~self.mask[:, None, :, None], value)

    def pooled(self, by: int) -> Padding:
        """The same clips with `by` frames made one; a last, incomplete group is one too."""
        if by == 1:
            return self
        return Padding(-(-self.lengths // by), -(-self.frames // by), self.device)


def as_maps(features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Padding | None]:
    """What every network begins with.

    Args:
        features: (batch, frames, bands); padded frames may hold anything.
        lengths: (batch,) real frames of each clip, or None where all are real.

    Returns:
        Maps (batch, 1, frames, bands) with zeros in padded frames, and the padding, None where
        there is none.
    """
    # Channels last: pooling is three times as fast on a CPU, and tensor cores read it in place.
    maps = features.unsqueeze(1).contiguous(memory_format=torch.channels_last)
    if lengths is None:
        return maps, None
    lengths = lengths.cpu()
    if bool((lengths >= features.shape[1]).all()):
        return maps, None
    padding = Padding(lengths, features.shape[1], features.device)
    return padding.fill(maps), padding
