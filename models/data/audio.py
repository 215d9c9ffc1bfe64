"""Audio of any format as mono waveforms of one sample rate."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from models.errors import UserError

_UNREADABLE = (soundfile.SoundFileError, TypeError, ValueError, MemoryError)
"""What noise in place of audio raises; a header may promise more samples than there is memory."""

RATES = (100, 10_000_000)
"""Hz; of another rate a few samples may be hours, or hours a few samples."""

_EMPTY = "expected audio, but the file is empty: replace it or leave it out"


def load_audio(path: Path, sample_rate: int, seconds: float | None = None) -> Tensor:
    """Read an audio file of any format, rate and number of channels as mono.

    Returns (samples,) float32 at `sample_rate`, the mean of the channels, at most the first
    `seconds` of it and never padded. UserError names a file that cannot be read or is empty.
    """
    try:
        samples, rate = _read(path, seconds)
    except (*_UNREADABLE, OSError) as error:
        raise unreadable(path, error) from error
    return at_rate(samples, rate, sample_rate, seconds, str(path))


def decode_audio(
    data: bytes, sample_rate: int, seconds: float | None = None, name: str = "clip"
) -> Tensor:
    """As `load_audio`, from the contents of an audio file; `name` is for the UserError."""
    try:
        samples, rate = _read(io.BytesIO(data), seconds)
    except _UNREADABLE as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise UserError(
            f"{name}: expected audio, but it cannot be read ({reason}): replace it or leave it out"
        ) from error
    return at_rate(samples, rate, sample_rate, seconds, name)


def at_rate(
    samples: np.ndarray, rate: int, sample_rate: int, seconds: float | None, name: str
) -> Tensor:
    """Mono samples (samples,) float32 of `rate`, checked, resampled and cropped to `seconds`."""
    if not np.isfinite(samples).all():
        raise UserError(
            f"{name}: expected finite samples, found NaN or infinity: replace it or leave it out"
        )
    if rate != sample_rate and len(samples):
        samples = soxr.resample(samples, rate, sample_rate)
    if seconds is not None:
        samples = samples[: round(seconds * sample_rate)]
    if not len(samples):
        raise UserError(f"{name}: {_EMPTY}")
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


def _read(source: Path | io.BytesIO, seconds: float | None) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(source) as file:
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise ValueError(f"a sample rate of {file.samplerate} Hz")
        frames = -1 if seconds is None else math.ceil(seconds * file.samplerate)
        samples = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
        return samples, file.samplerate
