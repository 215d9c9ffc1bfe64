"""AudioSet's own files: the class list, segment CSVs, strong-label TSVs and a folder of them.

Audio files are taken to hold the cut segment, from its start to its end, as AudioSet is usually
stored, and not the full recording.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.data.audio_files import AudioFiles
from models.data.classes import ClassList
from models.data.segments import Segment, SegmentBuilder, SegmentList
from models.data.tables import read_rows, shown, write_lines
from models.errors import UserError

_LONGEST = 1e9
"""Seconds beyond which a time is none: more would not fit into milliseconds."""

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
EVALUATION_FILE = "eval_segments.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StrongLabel:
    """One sound event in a clip: onset and offset in seconds from the clip's start."""

    clip_id: str
    onset: float
    offset: float
    label: int


def clip_id(ytid: str, start: float) -> str:
    """The name of a segment in AudioSet's strong labels."""
    return f"{ytid}_{round(start * 1000)}"


def read_segments(
    csv_path: Path, audio_dir: Path, classes: ClassList, ignore_unknown_labels: bool = False
) -> SegmentList:
    """Read a segment CSV and find each row's audio anywhere under `audio_dir`.

    A row `YTID, start, end, "mid,mid"` owns the audio file named `{YTID}_{start}`,
    `{YTID}_{start in ms}`, either of them with `_{end}`, `{YTID}` or `Y{YTID}`, whatever its type.
    Rows without audio are left out with one warning. With `ignore_unknown_labels` so are labels
    that `classes` does not list, and rows that have no other: it is not known whether they hold a
    class of the list. UserError: a file or row that cannot be read, else such a label, no audio at
    all.
    """
    return _segments(
        [csv_path], AudioFiles(audio_dir), _LabelReader(classes, ignore_unknown_labels)
    )


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


def segment_tables(directory: Path) -> list[Path]:
    """A corpus folder's lists of training segments, if it has any."""
    return next((found for names in TRAIN_FILES if (found := _existing(directory, names))), [])


def read_segment_lists(
    directory: Path, classes: ClassList, ignore_unknown_labels: bool = False
) -> tuple[SegmentList, SegmentList]:
    """The training and the evaluation segments of a corpus folder laid out as AudioSet's files."""
    files = AudioFiles(directory / "audio")
    evaluation, train = (
        _segments(paths, files, _LabelReader(classes, ignore_unknown_labels))
        for paths in ([directory / EVALUATION_FILE], segment_tables(directory))
    )
    return train, evaluation


def read_evaluation_list(
    directory: Path, classes: ClassList, ignore_unknown_labels: bool = False
) -> SegmentList:
    """The evaluation segments of a folder laid out as AudioSet's files, alone."""
    audio = directory / "audio"
    return read_segments(directory / EVALUATION_FILE, audio, classes, ignore_unknown_labels)


def _existing(directory: Path, names: Iterable[str]) -> list[Path]:
    return [directory / name for name in names if (directory / name).exists()]


def _segments(paths: Sequence[Path], files: AudioFiles, labels: _LabelReader) -> SegmentList:
    with _without_collector():
        return _read_segments(paths, files, labels)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows make no cycles; looking for some among millions of them takes 40 % of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_segments(paths: Sequence[Path], files: AudioFiles, labels: _LabelReader) -> SegmentList:
    builder = SegmentBuilder()
    missing, first_missing, unlabelled = 0, "", 0
    for path in paths:
        empty = True
        for rows in _chunks(read_rows(path, comments=True)):
            empty = False
            read = [_parse(row, labels, path, line) for line, row in rows]
            parsed = [row for row in read if row.labels is not None]
            unlabelled += len(read) - len(parsed)
            found = _find(parsed, files)
            if (found < 0).any():
                missing += int((found < 0).sum())
                first_missing = first_missing or parsed[int(np.argmax(found < 0))].clip_id
                parsed = [row for row, there in zip(parsed, found >= 0, strict=True) if there]
            builder.extend(
                [row.clip_id for row in parsed],
                found[found >= 0],
                (row.start.seconds for row in parsed),
                (row.end.seconds for row in parsed),
                [row.labels or () for row in parsed],
            )
        if empty:
            raise UserError(f"{path}: expected rows of segments, found none")
    names = " and ".join(str(path) for path in paths)
    if unlabelled and not missing and not len(builder):
        raise UserError(
            f"{names}: none of its labels (first: {labels.first_unknown}) is in the class list: "
            "use the class list that belongs to it"
        )
    if labels.unknown:
        logger.warning(
            "%s: left out %d labels whose class is not in the class list (first: %s), and %d "
            "segments that have no other",
            *(names, labels.unknown, labels.first_unknown, unlabelled),
        )
    if not len(builder):
        raise UserError(
            f"{names}: none of its {missing} segments (first: {first_missing}) has an audio file "
            f"under {files.directory}: name the files after their YTID"
        )
    if missing:
        logger.warning(
            "%s: left out %d of %d segments that have no audio file under %s (first: %s)",
            *(names, missing, missing + len(builder), files.directory, first_missing),
        )
    return builder.build(files.names, labels.num_classes, missing)


class _Time(NamedTuple):
    seconds: float
    written: str
    short: str
    milliseconds: int


class _Row(NamedTuple):
    ytid: str
    start: _Time
    end: _Time
    labels: tuple[int, ...] | None
    """None where none of its labels is known."""

    @property
    def clip_id(self) -> str:
        return f"{self.ytid}_{self.start.milliseconds}"


_TIMED_STEMS: tuple[Callable[[_Row], str], ...] = (
    lambda row: f"{row.ytid}_{row.start.written}",
    lambda row: f"{row.ytid}_{row.start.written}_{row.end.written}",
    lambda row: f"{row.ytid}_{row.start.short}",
    lambda row: f"{row.ytid}_{row.start.short}_{row.end.short}",
    lambda row: f"{row.ytid}_{row.start.milliseconds}",
    lambda row: f"{row.ytid}_{row.start.milliseconds}_{row.end.milliseconds}",
)
_PLAIN_STEMS: tuple[Callable[[_Row], str], ...] = (
    lambda row: row.ytid,
    lambda row: f"Y{row.ytid}",
)
"""How the file of a row may be named, best first; the times go before."""


def _find(rows: Sequence[_Row], files: AudioFiles) -> np.ndarray:
    """Each row's file, or -1: one look-up of many rows for each way to name a file."""
    found = np.full(len(rows), -1, dtype=np.int32)
    timed = files.with_times([row.ytid for row in rows])
    for stems, open_to in ((_TIMED_STEMS, timed), (_PLAIN_STEMS, np.full(len(rows), True))):
        for stem in stems:
            left = np.flatnonzero(open_to & (found < 0))
            if len(left):
                found[left] = files.find([stem(rows[index]) for index in left.tolist()])
    return found


def _chunks(
    rows: Iterator[tuple[int, list[str]]], size: int = 1 << 15
) -> Iterator[list[tuple[int, list[str]]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _parse(row: list[str], labels: _LabelReader, path: Path, line: int) -> _Row:
    if len(row) != 4 or not row[0]:
        raise UserError(
            f'{path}, line {line}: expected YTID, start_seconds, end_seconds, "mid,mid", '
            f"found {shown(row)}"
        )
    ytid, start_text, end_text, mids = row
    start, end = _time(start_text), _time(end_text)
    if start is None or end is None or start.seconds >= end.seconds:
        raise _bad_times(f"{path}, line {line}", start_text, end_text)
    try:
        return _Row(ytid, start, end, labels.read(mids))
    except KeyError as error:
        raise UserError(
            f"{path}, line {line}: the label {error.args[0]} is not in the class list: "
            "correct it, use the class list that belongs to this file or --ignore-unknown-labels"
        ) from error


@lru_cache(maxsize=1 << 16)
def _time(text: str) -> _Time | None:
    """A time in seconds in the forms that file names have, None where it is no such time."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    if not 0 <= seconds < _LONGEST:
        return None
    return _Time(seconds, text, f"{seconds:g}", round(seconds * 1000))


class _LabelReader:
    """Reads `mid,mid`; most rows have a combination that another row had before.

    Attributes:
        num_classes: how many the class list has.
        unknown: labels left out so far, `first_unknown` the first of them.
    """

    def __init__(self, classes: ClassList, ignore_unknown: bool = False) -> None:
        self._read = lru_cache(maxsize=1 << 16)(partial(_labels, classes=classes))
        self._ignore = ignore_unknown
        self.num_classes = len(classes)
        self.unknown = 0
        self.first_unknown = ""

    def read(self, mids: str) -> tuple[int, ...] | None:
        """Class indices, ascending; None where labels are left out and no other is there.

        KeyError with a mid that the class list lacks, where none is left out.
        """
        labels, unknown = self._read(mids)
        if not unknown:
            return labels
        if not self._ignore:
            raise KeyError(unknown[0])
        self.unknown += len(unknown)
        self.first_unknown = self.first_unknown or unknown[0]
        return labels or None


def _labels(mids: str, classes: ClassList) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Class indices, ascending, and the mids that the class list lacks."""
    names = [name for name in (mid.strip() for mid in mids.split(",")) if name]
    known = tuple(sorted({classes.index(mid) for mid in names if mid in classes}))
    return known, tuple(mid for mid in names if mid not in classes)


def _bad_times(where: str, start: str, end: str) -> UserError:
    return UserError(f"{where}: expected 0 <= start < end in seconds, found {start} and {end}")


def _times(start: str, end: str, where: str) -> tuple[float, float]:
    first, last = _time(start), _time(end)
    if first is None or last is None or first.seconds >= last.seconds:
        raise _bad_times(where, start, end)
    return first.seconds, last.seconds
