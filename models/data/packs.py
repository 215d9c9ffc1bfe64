"""Clips packed into one HDF5 file, as PANNs packs them.

Kong et al., "PANNs", 2020, and their public program: int16 `waveform` (N, samples), bool `target`
(N, classes), bytes `audio_name` (N,), the sample rate as an attribute. Packs of `models.pack` also
have int32 `length` (N,), each clip's real samples, and `clip_id` (N,); without them, zeros at a
clip's end count as padding, and its id is the file's name without its type and PANNs' leading Y.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.data.audio import RATES, at_rate
from models.data.labels import labels_of, matrix_from_counts, stack
from models.errors import UserError

INT16_SCALE = 32767
"""Full scale as PANNs writes it."""

_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError)
"""What HDF5 raises of a file that is broken, or made of other things than it says."""

_ROWS_AT_ONCE = 1 << 15
_DEFAULT_RATE = 32000
"""Of PANNs' packs, should the attribute be missing."""


@dataclass(frozen=True, slots=True)
class PackedClip:
    """One row of a pack."""

    clip_id: str
    labels: tuple[int, ...]
    pack: Path
    row: int

    def load(self, sample_rate: int, seconds: float) -> Tensor:
        """The waveform: (samples,) float32 at `sample_rate`, without padding."""
        name = f"{self.pack}, row {self.row} ({self.clip_id})"
        try:
            file = _open(self.pack, os.getpid())
            rate = _rate(file)
            samples = file["waveform"][self.row, : math.ceil(seconds * rate)]
            length = int(file["length"][self.row]) if "length" in file else _real(samples)
        except _UNREADABLE as error:
            raise UserError(f"{name}: cannot be read ({error})") from error
        scaled = samples[:length].astype(np.float32) / INT16_SCALE
        return at_rate(scaled, rate, sample_rate, seconds, name)


@dataclass(frozen=True, eq=False)
class PackedClips(Sequence[PackedClip]):
    """The clips of some packs; rows that were left empty for want of audio are passed over."""

    packs: tuple[Path, ...]
    pack: np.ndarray
    row: np.ndarray
    ids: np.ndarray
    labels: csr_array
    missing: int = field(default=0)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Any) -> Any:
        return PackedClip(
            self.ids[index].decode(errors="replace"),
            labels_of(self.labels, index),
            self.packs[self.pack[index]],
            int(self.row[index]),
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> PackedClips:
        """The clips at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            pack=self.pack[rows],
            row=self.row[rows],
            ids=self.ids[rows],
            labels=self.labels[rows],
            missing=0,
        )


def read_packs(paths: Sequence[Path], num_classes: int) -> PackedClips:
    """The index of some packs: names and labels, no sound.

    Raises:
        UserError: a file that is no such pack, or of another number of classes; no clip at all.
    """
    parts = [_read_index(path, num_classes) for path in paths]
    clips = PackedClips(
        packs=tuple(paths),
        pack=np.repeat(np.arange(len(parts), dtype=np.int16), [len(part.row) for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        labels=stack(part.labels for part in parts),
        missing=sum(part.missing for part in parts),
    )
    if not len(clips):
        raise UserError(f"{paths[0]}: expected clips in this pack, found only empty rows")
    return clips


def _read_index(path: Path, num_classes: int) -> PackedClips:
    try:
        with h5py.File(path, "r") as file:
            _check(path, file, num_classes)
            names = file["audio_name"][:]
            there = names != b""
            if "length" in file:
                there &= file["length"][:] > 0
            ids = file["clip_id"][:] if "clip_id" in file else _ids(names)
            starts = range(0, len(names), _ROWS_AT_ONCE)
            labels = stack(_labels(file["target"][s : s + _ROWS_AT_ONCE]) for s in starts)
            _rate(file)
    except _UNREADABLE as error:
        raise UserError(f"{path}: expected an HDF5 pack of clips ({error})") from error
    rows = np.flatnonzero(there)
    return PackedClips(
        (path,),
        np.zeros(len(rows), dtype=np.int16),
        rows.astype(np.int32),
        ids[rows],
        labels[rows],
        len(names) - len(rows),
    )


def _check(path: Path, file: h5py.File, num_classes: int) -> None:
    lacking = [
        name
        for name in ("waveform", "target", "audio_name")
        if not isinstance(file.get(name), h5py.Dataset)
    ]
    if lacking:
        raise UserError(f"{path}: expected a pack of clips, found no dataset {', '.join(lacking)}")
    waveform, target = file["waveform"], file["target"]
    if waveform.ndim != 2 or waveform.dtype != np.int16:
        raise UserError(
            f"{path}: expected waveform as int16 (clips, samples), found {waveform.dtype} "
            f"{waveform.shape}"
        )
    if target.shape != (len(waveform), num_classes):
        raise UserError(
            f"{path}: expected target as ({len(waveform)}, {num_classes}), for the classes of "
            f"class_labels_indices.csv, found {target.shape}: use the class list that belongs to it"
        )
    for name, kinds, expected in (
        ("target", "biuf", "numbers"),
        ("audio_name", "S", "bytes"),
        ("clip_id", "S", "bytes"),
        ("length", "i", "whole numbers"),
    ):
        found = file.get(name)
        if found is None:
            continue
        rows = getattr(found, "shape", ())[:1]
        if rows != (len(waveform),) or found.dtype.kind not in kinds:
            raise UserError(
                f"{path}: expected {name} as {expected}, one for each of {len(waveform)} clips, "
                f"found {found}"
            )


def _labels(target: np.ndarray) -> csr_array:
    target = target != 0
    return matrix_from_counts(
        target.sum(axis=1), np.nonzero(target)[1].astype(np.int32), target.shape[1]
    )


def _ids(names: np.ndarray) -> np.ndarray:
    """PANNs names a clip Y{YTID}.wav."""
    stems = [PurePath(os.fsdecode(name)).stem for name in names.tolist()]
    return np.array([os.fsencode(stem[1:] if stem[:1] == "Y" else stem) for stem in stems])


def _rate(file: h5py.File) -> int:
    rate = int(file.attrs.get("sample_rate", _DEFAULT_RATE))
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sample rate of {rate} Hz")
    return rate


def _real(samples: np.ndarray) -> int:
    """How many samples are left without the zeros at the end."""
    nonzero = np.flatnonzero(samples)
    return int(nonzero[-1]) + 1 if len(nonzero) else 0


@lru_cache(maxsize=64)
def _open(path: Path, process: int) -> h5py.File:
    """The file, opened once in each process: HDF5 cannot share one with a parent."""
    return h5py.File(path, "r")
