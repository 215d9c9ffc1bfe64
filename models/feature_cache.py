"""Features of a list of clips, computed once and kept in memory for many epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.data.clips import Clip, ClipBatch, ClipDataset, Unreadable, collate
from models.data.segments import Clips
from models.features import FeaturePreset, FrontEnd


@dataclass(frozen=True)
class FeatureBatch:
    """Features of a batch of clips, before normalisation.

    features (B, frames, bands) float32; lengths (B,) int64, each clip's frames; target
    (B, num_classes) float32; clip_ids, B names; seconds, each clip's duration; unreadable, the
    clips that are not in the batch because they could not be read; cut, the names of those that
    are longer than that.
    """

    features: Tensor
    lengths: Tensor
    target: Tensor
    clip_ids: tuple[str, ...]
    seconds: tuple[float, ...]
    unreadable: tuple[Unreadable, ...] = ()
    cut: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass(frozen=True)
class FeatureClip:
    """One clip: features (frames, bands), target (num_classes,), name and duration, and whether it
    is longer than that."""

    features: Tensor
    target: Tensor
    clip_id: str
    seconds: float
    is_cut: bool = False


class FeatureClips(Dataset["FeatureClip | Unreadable"]):
    """Clips as features in memory: 100 kB for 10 s at 64 bands and 40 frames a second.

    A clip that cannot be read keeps its place.

    Args:
        clips: the clips, each read once, here.
        num_classes: width of the targets.
        preset: the features.
        workers: processes that read audio.
        description: label of the progress bar.
        strict: let a clip that cannot be read raise UserError.
    """

    def __init__(
        self,
        clips: Clips,
        num_classes: int,
        preset: FeaturePreset,
        workers: int = 0,
        description: str = "features",
        strict: bool = False,
    ) -> None:
        waveforms = ClipDataset(clips, num_classes, preset.sample_rate, preset.clip_seconds, strict)
        loader = DataLoader(
            waveforms, batch_size=16, collate_fn=_collate_in_place, num_workers=workers
        )
        front_end = FrontEnd(preset)
        self.clips: list[FeatureClip | Unreadable] = []
        for batch, skipped in tqdm(loader, description, unit="batch", disable=None, leave=False):
            with torch.no_grad():
                features, lengths = front_end.extract(batch.waveform, batch.lengths)
            read = (
                FeatureClip(
                    features[index, : lengths[index]].clone(),
                    batch.target[index],
                    name,
                    batch.lengths[index].item() / preset.sample_rate,
                    name in batch.cut,
                )
                for index, name in enumerate(batch.clip_ids)
            )
            self.clips += [clip or next(read) for clip in skipped]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> FeatureClip | Unreadable:
        return self.clips[index]


def collate_features(clips: Sequence[FeatureClip | Unreadable]) -> FeatureBatch:
    """Batch clips of different lengths: zeros fill up, `lengths` tell them apart.

    A batch of which no clip could be read has no frames, bands and classes either.
    """
    kept = [clip for clip in clips if isinstance(clip, FeatureClip)]
    skipped = tuple(clip for clip in clips if isinstance(clip, Unreadable))
    if not kept:
        none = torch.zeros(0, dtype=torch.int64)
        return FeatureBatch(torch.zeros(0, 0, 0), none, torch.zeros(0, 0), (), (), skipped)
    return FeatureBatch(
        torch.nn.utils.rnn.pad_sequence([clip.features for clip in kept], batch_first=True),
        torch.tensor([len(clip.features) for clip in kept]),
        torch.stack([clip.target for clip in kept]),
        tuple(clip.clip_id for clip in kept),
        tuple(clip.seconds for clip in kept),
        skipped,
        tuple(clip.clip_id for clip in kept if clip.is_cut),
    )


def _collate_in_place(
    clips: Sequence[Clip | Unreadable],
) -> tuple[ClipBatch, list[Unreadable | None]]:
    """The batch, and at each place the clip that could not be read or None."""
    return collate(clips), [clip if isinstance(clip, Unreadable) else None for clip in clips]
