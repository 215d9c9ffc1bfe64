"""Clips of audio and batches of them. Padding is never part of a clip: batches carry lengths."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.data.labels import target_of
from models.data.segments import Clips
from models.errors import UserError

_NEGLIGIBLE_SECONDS = 0.1
"""Of a clip that is so much too long nobody is told; codecs pad theirs."""


@dataclass(frozen=True)
class Clip:
    """One clip: waveform (samples,) float32, target (num_classes,) float32 of 0 and 1, and whether
    the waveform was longer."""

    waveform: Tensor
    target: Tensor
    clip_id: str
    is_cut: bool = False


@dataclass(frozen=True)
class Unreadable:
    """Stands for a clip that cannot be read: its name, and what is wrong with it in one line."""

    clip_id: str
    reason: str


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one batch, in order.

    waveform (B, max_samples) float32, zero past each clip's end; lengths (B,) int64, each clip's
    samples; target (B, num_classes) float32; clip_ids, B names; unreadable, the clips that are
    not in the batch because they could not be read; cut, the names of those that are longer than
    their waveforms. Without any other B is 0, and so is num_classes.
    """

    waveform: Tensor
    lengths: Tensor
    target: Tensor
    clip_ids: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()
    cut: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            waveform=self.waveform.to(device, non_blocking=non_blocking),
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return replace(
            self,
            waveform=self.waveform.pin_memory(),
            lengths=self.lengths.pin_memory(),
            target=self.target.pin_memory(),
        )


class ClipDataset(Dataset["Clip | Unreadable"]):
    """The clips of a corpus of any kind, cropped to `seconds` and never padded.

    Args:
        clips: a `ClipSource`, or any sequence of labelled clips.
        num_classes: width of the targets.
        sample_rate: of the waveforms.
        seconds: the longest a clip may be.
        strict: let a clip that cannot be read raise UserError instead of giving `Unreadable`.
    """

    def __init__(
        self,
        clips: Clips,
        num_classes: int,
        sample_rate: int = 16000,
        seconds: float = 10.0,
        strict: bool = False,
    ) -> None:
        self.clips = clips
        self.num_classes = num_classes
        self.sample_rate = sample_rate
        self.seconds = seconds
        self.strict = strict

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip | Unreadable:
        clip = self.clips[index]
        try:
            waveform = clip.load(self.sample_rate, seconds_to_read(self.seconds))
        except UserError as error:
            if self.strict:
                raise UserError(f"{error} (--strict)") from error
            return Unreadable(clip.clip_id, str(error))
        target = target_of(clip.labels, self.num_classes)
        return cut_clip(waveform, target, clip.clip_id, self.sample_rate, self.seconds)


def seconds_to_read(seconds: float) -> float:
    """How much of a clip tells whether it is longer than `seconds`."""
    return seconds + _NEGLIGIBLE_SECONDS


def cut_clip(
    waveform: Tensor, target: Tensor, clip_id: str, sample_rate: int, seconds: float
) -> Clip:
    """A clip of at most `seconds`, from a waveform of at most `seconds_to_read`."""
    is_cut = len(waveform) >= round(seconds_to_read(seconds) * sample_rate)
    return Clip(waveform[: round(seconds * sample_rate)], target, clip_id, is_cut)


def report_cut_clips(names: Iterable[str], seconds: float) -> None:
    """Say on stderr how many clips are longer than `seconds`, if any are."""
    count = len({*names})
    if count:
        print(
            f"{count} clips are longer than {seconds:g} s: only the first {seconds:g} s of them "
            "are heard, and true events after that do not count",
            file=sys.stderr,
        )


def collate(clips: Sequence[Clip | Unreadable]) -> ClipBatch:
    """Batch clips of different lengths: zeros fill up each waveform, `lengths` tell them apart."""
    kept = [clip for clip in clips if isinstance(clip, Clip)]
    lengths = torch.tensor([len(clip.waveform) for clip in kept], dtype=torch.int64)
    waveform = torch.zeros(len(kept), int(lengths.max()) if kept else 0)
    for row, clip in zip(waveform, kept, strict=True):
        row[: len(clip.waveform)] = clip.waveform
    target = torch.stack([clip.target for clip in kept]) if kept else torch.zeros(0, 0)
    names = tuple(clip.clip_id for clip in kept)
    skipped = tuple(clip for clip in clips if isinstance(clip, Unreadable))
    cut = tuple(clip.clip_id for clip in kept if clip.is_cut)
    return ClipBatch(waveform, lengths, target, names, skipped, cut)
