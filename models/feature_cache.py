"""Log-mel features of a list of clips, computed once and kept in memory for many epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.data.audioset import Segment
from models.data.clips import ClipDataset, collate
from models.features import FeaturePreset, LogMel


@dataclass(frozen=True)
class FeatureBatch:
    """Features of a batch of clips, before normalisation.

    features (B, frames, bands) float32; lengths (B,) int64, each clip's frames; target
    (B, num_classes) float32; clip_ids, B names; seconds, each clip's duration.
    """

    features: Tensor
    lengths: Tensor
    target: Tensor
    clip_ids: tuple[str, ...]
    seconds: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass(frozen=True)
class FeatureClip:
    """One clip: features (frames, bands), target (num_classes,), name and duration."""

    features: Tensor
    target: Tensor
    clip_id: str
    seconds: float


class FeatureClips(Dataset[FeatureClip]):
    """Clips as features in memory: 100 kB for 10 s at 64 bands and 40 frames a second.

    Args:
        segments: the clips, each read once, here.
        num_classes: width of the targets.
        preset: the features.
        workers: processes that read audio.
        description: label of the progress bar.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        num_classes: int,
        preset: FeaturePreset,
        workers: int = 0,
        description: str = "features",
    ) -> None:
        clips = ClipDataset(segments, num_classes, preset.sample_rate, preset.clip_seconds)
        loader = DataLoader(clips, batch_size=16, collate_fn=collate, num_workers=workers)
        front_end = LogMel(preset)
        self.clips: list[FeatureClip] = []
        for batch in tqdm(loader, description, unit="batch", disable=None, leave=False):
            with torch.no_grad():
                features, lengths = front_end.log_mel(batch.waveform, batch.lengths)
            for index, name in enumerate(batch.clip_ids):
                self.clips.append(
                    FeatureClip(
                        features[index, : lengths[index]].clone(),
                        batch.target[index],
                        name,
                        batch.lengths[index].item() / preset.sample_rate,
                    )
                )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> FeatureClip:
        return self.clips[index]


def collate_features(clips: Sequence[FeatureClip]) -> FeatureBatch:
    """Batch clips of different lengths: zeros fill up, `lengths` tell them apart."""
    return FeatureBatch(
        torch.nn.utils.rnn.pad_sequence([clip.features for clip in clips], batch_first=True),
        torch.tensor([len(clip.features) for clip in clips]),
        torch.stack([clip.target for clip in clips]),
        tuple(clip.clip_id for clip in clips),
        tuple(clip.seconds for clip in clips),
    )
