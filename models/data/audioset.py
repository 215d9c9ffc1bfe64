"""AudioSet's own files: the class list, segment CSVs, strong-label TSVs and a folder of them.

Audio files are taken to hold the cut segment, from its start to its end, as AudioSet is usually
stored, and not the full recording.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import soundfile

from models.data.classes import ClassList
from models.data.tables import kind, read_rows, shown, write_lines
from models.errors import UserError

INCOMPLETE = "INCOMPLETE"
"""Name of the marker file in a corpus folder whose writing has not finished."""

STRONG_HEADER = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
TRAIN_FILES = (
    ("train_segments.csv",),
    (
        "balanced_train_segments.csv",
        "unbalanced_train_segments.csv",
    ),
)

# RAW needs a sample rate that no file carries; the others are common names of listed formats.
_AUDIO_SUFFIXES = frozenset(
    {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    | {".aif", ".oga", ".opus", ".snd", ".wave"}
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Segment:
    """A labelled clip: `clip_id` is `{YTID}_{start in milliseconds}`, times are in seconds."""

    clip_id: str
    path: Path
    start: float
    end: float
    labels: tuple[int, ...]


@dataclass(frozen=True)
class SegmentList(Sequence[Segment]):
    """The segments whose audio is there, and how many rows were left out for want of it."""

    segments: tuple[Segment, ...] = ()
    missing: int = 0

    def __len__(self) -> int:
        return len(self.segments)

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> SegmentList: ...
    def __getitem__(self, index: int | slice) -> Segment | SegmentList:
        if isinstance(index, slice):
            return SegmentList(self.segments[index])
        return self.segments[index]

    def select(self, indices: Iterable[int]) -> SegmentList:
        """The segments at `indices`, in that order."""
        return SegmentList(tuple(self.segments[index] for index in indices))

    @property
    def labels(self) -> list[tuple[int, ...]]:
        """The labels of each segment."""
        return [segment.labels for segment in self.segments]


@dataclass(frozen=True, slots=True)
class StrongLabel:
    """One sound event in a clip: onset and offset in seconds from the clip's start."""

    clip_id: str
    onset: float
    offset: float
    label: int


@dataclass(frozen=True)
class Corpus:
    """A corpus folder, read; `strong` maps a clip id to its events and is empty without them."""

    directory: Path
    classes: ClassList
    train: SegmentList
    evaluation: SegmentList
    strong: Mapping[str, list[StrongLabel]] = field(default_factory=dict)


def clip_id(ytid: str, start: float) -> str:
    """The name of a segment in AudioSet's strong labels."""
    return f"{ytid}_{round(start * 1000)}"


def read_segments(csv_path: Path, audio_dir: Path, classes: ClassList) -> SegmentList:
    """Read a segment CSV and find each row's audio anywhere under `audio_dir`.

    A row `YTID, start, end, "mid,mid"` owns the audio file named `{YTID}_{start}`,
    `{YTID}_{start in ms}`, either of them with `_{end}`, `{YTID}` or `Y{YTID}`, whatever its type.
    Rows without audio are left out with one warning. UserError: a file or row that cannot be
    read, a label that `classes` does not list, no audio at all.
    """
    return _segments([csv_path], audio_dir, _index_audio(audio_dir), classes)


def read_strong_labels(tsv_path: Path, classes: ClassList) -> dict[str, list[StrongLabel]]:
    """Read a strong-label TSV into each clip's events, ordered as in the file.

    AudioSet's strong labels name some classes that its class list lacks: these are left out with
    one warning. UserError: a file or row that cannot be read, or no known class at all.
    """
    rows = read_rows(tsv_path, delimiter="\t")
    _, header = next(rows, (0, []))
    if header != STRONG_HEADER:
        raise UserError(
            f"{tsv_path}: expected the tab-separated header {' '.join(STRONG_HEADER)} in line 1, "
            f"found {' '.join(header) or 'nothing'}"
        )
    strong: dict[str, list[StrongLabel]] = {}
    unknown: list[str] = []
    for line, row in rows:
        if len(row) != 4 or not row[0]:
            raise UserError(
                f"{tsv_path}, line {line}: expected four tab-separated values "
                f"({', '.join(STRONG_HEADER)}), found {shown(row)}"
            )
        name, onset, offset, mid = row
        start, end = _times(onset, offset, f"{tsv_path}, line {line}")
        if mid in classes:
            label = StrongLabel(name, start, end, classes.index(mid))
            strong.setdefault(name, []).append(label)
        else:
            unknown.append(mid)
    if unknown and not strong:
        raise UserError(
            f"{tsv_path}: none of its labels (first: {unknown[0]}) is in the class list: "
            "use the class list that belongs to it"
        )
    if unknown:
        logger.warning(
            "%s: left out %d strong labels whose class is not in the class list (first: %s)",
            *(tsv_path, len(unknown), unknown[0]),
        )
    return strong


def write_segments(path: Path, segments: Iterable[Segment], classes: ClassList) -> None:
    """Write a segment CSV with AudioSet's three header lines."""
    segments = list(segments)
    present = {label for segment in segments for label in segment.labels}
    positives = sum(len(segment.labels) for segment in segments)
    rows = []
    for segment in segments:
        ytid = segment.clip_id.rpartition("_")[0]
        mids = ",".join(classes.mids[label] for label in segment.labels)
        rows.append(f'{ytid}, {segment.start:.3f}, {segment.end:.3f}, "{mids}"')
    counts = f"num_ytids={len(segments)}, num_segs={len(segments)}"
    labels = f"num_unique_labels={len(present)}, num_positive_labels={positives}"
    columns = "# YTID, start_seconds, end_seconds, positive_labels"
    write_lines(path, [f"# {path.name}", f"# {counts}, {labels}", columns, *rows])


def write_strong_labels(path: Path, labels: Iterable[StrongLabel], classes: ClassList) -> None:
    """Write a strong-label TSV, times to the millisecond."""
    rows = (
        f"{label.clip_id}\t{label.onset:.3f}\t{label.offset:.3f}\t{classes.mids[label.label]}"
        for label in labels
    )
    write_lines(path, ["\t".join(STRONG_HEADER), *rows])


def open_corpus(directory: Path) -> Corpus:
    """Read a corpus folder laid out as AudioSet's files are.

    The folder holds `class_labels_indices.csv`, `train_segments.csv` (or AudioSet's
    `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, or both, taken together),
    `eval_segments.csv`, `audio/` and, optionally, `eval_strong.tsv`.
    UserError names what is missing, half written or cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a corpus folder, found {kind(directory)}")
    if (directory / INCOMPLETE).exists():
        raise UserError(
            f"{directory}: this corpus is half written: run the mix command that made it again"
        )
    train_paths = next(
        (found for names in TRAIN_FILES if (found := _existing(directory, names))), []
    )
    if not train_paths:
        names = " or ".join(name for group in TRAIN_FILES for name in group)
        raise UserError(f"{directory}: expected {names} in this corpus folder, found none of them")
    classes = ClassList.read(directory / "class_labels_indices.csv")
    audio_dir = directory / "audio"
    audio = _index_audio(audio_dir)
    evaluation = _segments([directory / "eval_segments.csv"], audio_dir, audio, classes)
    strong_path = directory / "eval_strong.tsv"
    return Corpus(
        directory=directory,
        classes=classes,
        train=_segments(train_paths, audio_dir, audio, classes),
        evaluation=evaluation,
        strong=read_strong_labels(strong_path, classes) if strong_path.exists() else {},
    )


def _existing(directory: Path, names: Iterable[str]) -> list[Path]:
    return [directory / name for name in names if (directory / name).exists()]


def _index_audio(audio_dir: Path) -> dict[str, str]:
    """Map the stem of every audio file under `audio_dir` to its path."""
    if not audio_dir.is_dir():
        raise UserError(f"{audio_dir}: expected a folder of audio files, found {kind(audio_dir)}")
    index: dict[str, str] = {}
    for folder, folders, names in os.walk(audio_dir, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 (millions of names)
            if suffix.lower() in _AUDIO_SUFFIXES:
                index.setdefault(stem, f"{folder}{os.sep}{name}")
    return index


def _segments(
    paths: Sequence[Path], audio_dir: Path, audio: Mapping[str, str], classes: ClassList
) -> SegmentList:
    segments: list[Segment] = []
    missing: list[str] = []
    for path in paths:
        before = len(segments) + len(missing)
        for line, row in read_rows(path, comments=True):
            where = f"{path}, line {line}"
            if len(row) != 4 or not row[0]:
                raise UserError(
                    f'{where}: expected YTID, start_seconds, end_seconds, "mid,mid", '
                    f"found {shown(row)}"
                )
            ytid, start_text, end_text, mids = row
            start, end = _times(start_text, end_text, where)
            labels = _labels(mids, classes, where)
            stems = _stems(ytid, start_text, end_text, start, end)
            found = next((audio[stem] for stem in stems if stem in audio), None)
            if found is None:
                missing.append(clip_id(ytid, start))
            else:
                segments.append(Segment(clip_id(ytid, start), Path(found), start, end, labels))
        if len(segments) + len(missing) == before:
            raise UserError(f"{path}: expected rows of segments, found none")
    names = " and ".join(str(path) for path in paths)
    if not segments:
        raise UserError(
            f"{names}: none of its {len(missing)} segments (first: {missing[0]}) has an audio file "
            f"under {audio_dir}: name the files after their YTID"
        )
    if missing:
        logger.warning(
            "%s: left out %d of %d segments that have no audio file under %s (first: %s)",
            *(names, len(missing), len(missing) + len(segments), audio_dir, missing[0]),
        )
    return SegmentList(tuple(segments), len(missing))


def _stems(ytid: str, start: str, end: str, start_s: float, end_s: float) -> Iterator[str]:
    starts = (start, f"{start_s:g}", f"{round(start_s * 1000)}")
    ends = (end, f"{end_s:g}", f"{round(end_s * 1000)}")
    for first, last in zip(starts, ends, strict=True):
        yield f"{ytid}_{first}"
        yield f"{ytid}_{first}_{last}"
    yield ytid
    yield f"Y{ytid}"


def _labels(mids: str, classes: ClassList, where: str) -> tuple[int, ...]:
    labels = set()
    for mid in filter(None, (mid.strip() for mid in mids.split(","))):
        if mid not in classes:
            raise UserError(
                f"{where}: the label {mid} is not in the class list: "
                "correct it or use the class list that belongs to this file"
            )
        labels.add(classes.index(mid))
    return tuple(sorted(labels))


def _times(start: str, end: str, where: str) -> tuple[float, float]:
    try:
        times = float(start), float(end)
    except ValueError:
        times = math.nan, math.nan
    if not (0 <= times[0] < times[1] < math.inf):
        raise UserError(f"{where}: expected 0 <= start < end in seconds, found {start} and {end}")
    return times
