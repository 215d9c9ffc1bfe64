"""Clips of audio and batches of them. Padding is never part of a clip: batches carry lengths."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.data.audioset import Segment
from models.errors import UserError

_EMPTY = "expected audio, but the file is empty: replace it or leave it out"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One clip: waveform (samples,) float32, target (num_classes,) float32 of 0 and 1."""

    waveform: Tensor
    target: Tensor
    clip_id: str


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one batch, in order.

    waveform (B, max_samples) float32, zero past each clip's end; lengths (B,) int64, each clip's
    samples; target (B, num_classes) float32; clip_ids, B names; skipped, how many clips of the
    batch could not be read. With every clip skipped B is 0, and so is num_classes.
    """

    waveform: Tensor
    lengths: Tensor
    target: Tensor
    clip_ids: tuple[str, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on `device`."""
        return ClipBatch(
            self.waveform.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
            self.target.to(device, non_blocking=non_blocking),
            self.clip_ids,
            self.skipped,
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return ClipBatch(
            self.waveform.pin_memory(),
            self.lengths.pin_memory(),
            self.target.pin_memory(),
            self.clip_ids,
            self.skipped,
        )


def load_audio(path: Path, sample_rate: int, seconds: float | None = None) -> Tensor:
    """Read an audio file of any format, rate and number of channels as mono.

    Returns (samples,) float32 at `sample_rate`, the mean of the channels, at most the first
    `seconds` of it and never padded. UserError names a file that cannot be read or is empty.
    """
    try:
        with soundfile.SoundFile(path) as file:
            frames = -1 if seconds is None else math.ceil(seconds * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise unreadable(path, error) from error
    if not np.isfinite(samples).all():
        raise UserError(
            f"{path}: expected finite samples, found NaN or infinity: replace it or leave it out"
        )
    if rate != sample_rate and len(samples):
        samples = soxr.resample(samples, rate, sample_rate)
    if seconds is not None:
        samples = samples[: round(seconds * sample_rate)]
    if not len(samples):
        raise UserError(f"{path}: {_EMPTY}")
    return torch.from_numpy(np.ascontiguousarray(samples))


def unreadable(path: Path, error: Exception) -> UserError:
    """What to say when `path` could not be read as audio because of `error`."""
    if not Path(path).exists():
        return UserError(f"{path}: expected an audio file, found no such file: check the name")
    if Path(path).is_dir():
        return UserError(f"{path}: expected an audio file, found a folder: name the files in it")
    if Path(path).is_file() and not Path(path).stat().st_size:
        return UserError(f"{path}: {_EMPTY}")
    # The first part of soundfile's own message names the file again.
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return UserError(
        f"{path}: expected an audio file, but it cannot be read ({reason}): replace it or leave it "
        "out"
    )


class ClipDataset(Dataset["Clip | None"]):
    """The clips of a list of segments, cropped to `seconds` and never padded.

    An audio file is taken to hold the cut segment and not the full recording. A file that cannot
    be read raises UserError, or with `on_error="skip"` gives None and a warning the first time.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        num_classes: int,
        sample_rate: int = 16000,
        seconds: float = 10.0,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')
        self.segments = segments
        self.num_classes = num_classes
        self.sample_rate = sample_rate
        self.seconds = seconds
        self.on_error = on_error
        self._warned: set[Path] = set()

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Clip | None:
        segment = self.segments[index]
        try:
            waveform = load_audio(segment.path, self.sample_rate, self.seconds)
        except UserError as error:
            if self.on_error == "raise":
                raise UserError(f"{error} (--skip-unreadable)") from error
            if segment.path not in self._warned:
                self._warned.add(segment.path)
                logger.warning("skipped: %s", error)
            return None
        target = torch.zeros(self.num_classes)
        target[list(segment.labels)] = 1
        return Clip(waveform, target, segment.clip_id)


def collate(clips: Sequence[Clip | None]) -> ClipBatch:
    """Batch clips of different lengths: zeros fill up each waveform, `lengths` tell them apart."""
    kept = [clip for clip in clips if clip is not None]
    lengths = torch.tensor([len(clip.waveform) for clip in kept], dtype=torch.int64)
    waveform = torch.zeros(len(kept), int(lengths.max()) if kept else 0)
    for row, clip in zip(waveform, kept, strict=True):
        row[: len(clip.waveform)] = clip.waveform
    target = torch.stack([clip.target for clip in kept]) if kept else torch.zeros(0, 0)
    names = tuple(clip.clip_id for clip in kept)
    return ClipBatch(waveform, lengths, target, names, len(clips) - len(kept))
