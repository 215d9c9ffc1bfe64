"""The clips of a corpus in memory: columns of numbers and packed text, about a hundred bytes each.

A list of Python objects would take ten times as much, and worker processes would copy it.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.data.audio import load_audio
from models.data.labels import labels_of, matrix_from_counts


class LabelledClip(Protocol):
    """One clip of any kind of corpus: its name, its classes and how its sound is read."""

    @property
    def clip_id(self) -> str: ...
    @property
    def labels(self) -> tuple[int, ...]: ...

    def load(self, sample_rate: int, seconds: float) -> Tensor:
        """(samples,) float32 at `sample_rate`, at most `seconds` long and never padded.

        Raises:
            UserError: names a clip that cannot be read.
        """


class Clips(Protocol):
    """Some clips, indexed."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> LabelledClip: ...
    def __iter__(self) -> Iterator[LabelledClip]: ...


class ClipSource(Clips, Protocol):
    """Many clips; cheap to hold, to hand to worker processes and to select from."""

    @property
    def labels(self) -> csr_array:
        """(clips, classes) sparse bool."""

    def select(self, indices: Sequence[int] | np.ndarray) -> ClipSource:
        """The clips at `indices`, in that order."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A labelled clip: `clip_id` is `{YTID}_{start in milliseconds}`, times are in seconds."""

    clip_id: str
    path: Path
    start: float
    end: float
    labels: tuple[int, ...]

    def load(self, sample_rate: int, seconds: float) -> Tensor:
        """The waveform, as `load_audio` reads it; the file holds the cut segment."""
        return load_audio(self.path, sample_rate, seconds)


class PackedText:
    """Many short strings end to end in one buffer."""

    def __init__(self, data: bytes | bytearray, lengths: Sequence[int]) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._ends = np.cumsum(np.asarray(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._data[start : int(self._ends[index])].tobytes())

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._data.nbytes + self._ends.nbytes


class TextBuilder:
    """Collects what `PackedText` holds."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._lengths = array("i")

    def extend(self, texts: Sequence[str]) -> None:
        """Append some strings."""
        joined = "".join(texts)
        encoded = os.fsencode(joined)
        self._data += encoded
        plain = len(encoded) == len(joined)
        self._lengths.extend(map(len, texts if plain else map(os.fsencode, texts)))

    def packed(self) -> PackedText:
        """What was collected."""
        return PackedText(self._data, self._lengths)


@dataclass(frozen=True, eq=False)
class AudioNames:
    """Paths of audio files: a folder's number and a name for each."""

    folders: tuple[str, ...]
    folder: np.ndarray
    names: PackedText

    def path(self, index: int) -> Path:
        """The file at `index`."""
        return Path(self.folders[self.folder[index]], self.names[index])

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.folder.nbytes + self.names.nbytes + sum(map(sys.getsizeof, self.folders))


@dataclass(frozen=True, eq=False)
class _Columns:
    ids: PackedText
    audio: AudioNames
    file: np.ndarray
    start: np.ndarray
    end: np.ndarray
    labels: csr_array


@dataclass(frozen=True, eq=False)
class SegmentList(Sequence[Segment]):
    """The segments whose audio is there, and how many rows were left out for want of it.

    Segments are made when they are asked for; a part of a list shares its columns.
    """

    columns: _Columns
    rows: np.ndarray
    missing: int = 0

    @classmethod
    def of(cls, segments: Iterable[Segment], num_classes: int) -> SegmentList:
        """A list of segments that are there one by one."""
        every = list(segments)
        folders: dict[str, int] = {}
        folder = [folders.setdefault(str(s.path.parent), len(folders)) for s in every]
        names = TextBuilder()
        names.extend([segment.path.name for segment in every])
        audio = AudioNames(tuple(folders), np.asarray(folder, dtype=np.int32), names.packed())
        builder = SegmentBuilder()
        builder.extend(
            [segment.clip_id for segment in every],
            range(len(every)),
            (segment.start for segment in every),
            (segment.end for segment in every),
            [segment.labels for segment in every],
        )
        return builder.build(audio, num_classes)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Segment]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> SegmentList: ...
    def __getitem__(self, index: int | slice) -> Segment | SegmentList:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index], missing=0)
        row = int(self.rows[index])
        columns = self.columns
        return Segment(
            columns.ids[row],
            columns.audio.path(columns.file[row]),
            float(columns.start[row]),
            float(columns.end[row]),
            labels_of(columns.labels, row),
        )

    @property
    def nbytes(self) -> int:
        """Memory in bytes, what parts of one list share among it."""
        columns = self.columns
        labels = columns.labels
        arrays = (self.rows, columns.file, columns.start, columns.end)
        sparse = (labels.data, labels.indices, labels.indptr)
        return (
            sum(column.nbytes for column in (*arrays, *sparse))
            + columns.ids.nbytes
            + columns.audio.nbytes
        )

    def select(self, indices: Sequence[int] | np.ndarray) -> SegmentList:
        """The segments at `indices`, in that order."""
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)], missing=0)

    @property
    def labels(self) -> csr_array:
        """(segments, classes) sparse bool."""
        every = len(self.rows) == len(self.columns.ids)
        if every and np.array_equal(self.rows, np.arange(len(self.rows))):
            return self.columns.labels
        return self.columns.labels[self.rows]


class SegmentBuilder:
    """Collects segments into columns."""

    def __init__(self) -> None:
        self._ids = TextBuilder()
        self._file, self._labels, self._counts = array("i"), array("i"), array("i")
        self._start, self._end = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._file)

    def extend(
        self,
        clip_ids: Sequence[str],
        files: Iterable[int],
        starts: Iterable[float],
        ends: Iterable[float],
        labels: Sequence[Sequence[int]],
    ) -> None:
        """Append some segments; `files` are the indices of their audio in `AudioNames`."""
        self._ids.extend(clip_ids)
        self._file.extend(files)
        self._start.extend(starts)
        self._end.extend(ends)
        self._counts.extend(map(len, labels))
        self._labels.extend(chain.from_iterable(labels))

    def build(self, audio: AudioNames, num_classes: int, missing: int = 0) -> SegmentList:
        """The list of what was collected."""
        labels = matrix_from_counts(np.asarray(self._counts), np.asarray(self._labels), num_classes)
        columns = _Columns(
            self._ids.packed(),
            audio,
            np.asarray(self._file),
            np.asarray(self._start),
            np.asarray(self._end),
            labels,
        )
        return SegmentList(columns, np.arange(len(self), dtype=np.int32), missing)
