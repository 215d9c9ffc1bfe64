"""Changes of the training clips, applied to their features on the model's device.

Each is a module that takes `Examples` and returns others of the same shapes; in evaluation mode it
returns what it took. Random numbers are PyTorch's own. Frames past a clip's end stay zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.layers.padding import frame_mask


@dataclass(frozen=True)
class Examples:
    """What a step learns from.

    Attributes:
        features: (batch, frames, bands), normalised and zero past each clip's end.
        lengths: (batch,) real frames of each clip, on the CPU.
        target: (batch, classes) from 0 to 1.
        frame_target: (batch, output frames, classes) from 0 to 1, where it is known.
    """

    features: Tensor
    lengths: Tensor
    target: Tensor
    frame_target: Tensor | None = None


@dataclass(frozen=True)
class AugmentationOptions:
    """Which changes are made, in this order; 0 leaves one out.

    Attributes:
        time_shift: standard deviation of `TimeShift`, in frames.
        mixup: concentration α of `Mixup`.
        spec_augment: apply `SpecAugment`.
    """

    time_shift: float = 0.0
    mixup: float = 0.0
    spec_augment: bool = False

    def build(self, frame_reduction: int) -> nn.Sequential:
        """The changes as one module, for a network with so many input frames per output frame."""
        changes: list[nn.Module] = []
        if self.time_shift:
            changes.append(TimeShift(self.time_shift, frame_reduction))
        if self.mixup:
            changes.append(Mixup(self.mixup))
        if self.spec_augment:
            changes.append(SpecAugment())
        return nn.Sequential(*changes)


class TimeShift(nn.Module):
    """Turns each clip in time, as a ring, by a random number of frames.

    Liu et al., 2021, for DCASE 2019: normal, with a standard deviation of 16 frames. The shift is
    a whole number of output frames, so that frame targets can be turned with the features.

    Args:
        deviation: standard deviation in input frames.
        frame_reduction: input frames per output frame.
    """

    def __init__(self, deviation: float = 16.0, frame_reduction: int = 1) -> None:
        super().__init__()
        if not deviation >= 0:
            raise ValueError(f"deviation: expected at least 0 frames, got {deviation}")
        self.deviation = deviation
        self.frame_reduction = frame_reduction

    def forward(self, examples: Examples) -> Examples:
        if not self.training:
            return examples
        step = self.frame_reduction
        steps = (torch.randn(len(examples.lengths)) * self.deviation / step).round().long()
        frame_target = examples.frame_target
        if frame_target is not None:
            frame_target = _turned(frame_target, -(-examples.lengths // step), steps)
        features = _turned(examples.features, examples.lengths, steps * step)
        return replace(examples, features=features, frame_target=frame_target)


class Mixup(nn.Module):
    """Mixes each clip with another of its batch: features and targets by the same share.

    Zhang et al., "mixup: Beyond empirical risk minimization", 2018. Frames that one clip of a pair
    does not have are the other's.

    Args:
        alpha: the share is drawn from Beta(α, α), for each pair.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha: expected a number above 0, got {alpha}")
        self.alpha = alpha

    def forward(self, examples: Examples) -> Examples:
        if not self.training or len(examples.lengths) == 0:
            return examples
        order = torch.randperm(len(examples.lengths))
        share = torch.distributions.Beta(self.alpha, self.alpha).sample(order.shape)
        features = _mixed_frames(examples.features, examples.lengths, order, share)
        frame_target = examples.frame_target
        if frame_target is not None:
            frames = -(-examples.lengths * frame_target.shape[1] // examples.features.shape[1])
            frame_target = _mixed_frames(frame_target, frames, order, share)
        share = share.to(examples.target)[:, None]
        target = examples.target
        return Examples(
            features,
            torch.maximum(examples.lengths, examples.lengths[order]),
            share * target + (1 - share) * target[order.to(target.device)],
            frame_target,
        )


class SpecAugment(nn.Module):
    """Blanks random stripes of frames and of bands, which become 0, the mean of the corpus.

    Park et al., "SpecAugment: A simple data augmentation method for automatic speech recognition",
    2019, without its warping; the sizes are those of PANNs (Kong et al., 2020).

    Args:
        frame_stripes, band_stripes: how many of each.
        stripe_frames, stripe_bands: each is less than so wide; the width is uniform.
    """

    def __init__(
        self,
        frame_stripes: int = 2,
        stripe_frames: int = 64,
        band_stripes: int = 2,
        stripe_bands: int = 8,
    ) -> None:
        super().__init__()
        for name, value in (("stripe_frames", stripe_frames), ("stripe_bands", stripe_bands)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.frame_stripes = frame_stripes
        self.stripe_frames = stripe_frames
        self.band_stripes = band_stripes
        self.stripe_bands = stripe_bands

    def forward(self, examples: Examples) -> Examples:
        if not self.training:
            return examples
        batch, frames, bands = examples.features.shape
        in_time = _stripes(examples.lengths, frames, self.frame_stripes, self.stripe_frames)
        every_band = torch.full((batch,), bands)
        in_bands = _stripes(every_band, bands, self.band_stripes, self.stripe_bands)
        blank = (in_time[:, :, None] | in_bands[:, None, :]).to(examples.features.device)
        return replace(examples, features=examples.features.masked_fill(blank, 0))


def _turned(values: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """(batch, frames, n) with each clip's first `lengths` frames turned later by `steps`."""
    position = torch.arange(values.shape[1])
    lengths = lengths[:, None]
    source = (position - steps[:, None]) % lengths.clamp(min=1)
    source = torch.where(position < lengths, source, position).to(values.device)
    return values.gather(1, source[..., None].expand_as(values))


def _mixed_frames(values: Tensor, lengths: Tensor, order: Tensor, share: Tensor) -> Tensor:
    """Clips (batch, frames, n) mixed with those at `order`, frame by frame over those that are
    there."""
    real = frame_mask(lengths, values.shape[1], lengths.device)
    own, other = share[:, None] * real, (1 - share)[:, None] * real[order]
    total = (own + other).clamp(min=torch.finfo(share.dtype).tiny)
    own, other = ((part / total)[..., None].to(values) for part in (own, other))
    return own * values + other * values[order.to(values.device)]


def _stripes(lengths: Tensor, size: int, count: int, width: int) -> Tensor:
    """(batch, size) bool: `count` stripes within the first `lengths`, each less than `width`."""
    shape = (len(lengths), count, 1)
    limit = lengths[:, None, None].clamp(max=width)
    widths = (torch.rand(shape) * limit).long()
    starts = (torch.rand(shape) * (lengths[:, None, None] - widths + 1)).long()
    position = torch.arange(size)
    return ((position >= starts) & (position < starts + widths)).any(1)
