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


def read_segments(csv_path: Path, audio_dir: Path, classes: ClassList) -> SegmentList:
    """Read a segment CSV and find each row's audio anywhere under `audio_dir`.

    A row `YTID, start, end, "mid,mid"` owns the audio file named `{YTID}_{start}`,
    `{YTID}_{start in ms}`, either of them with `_{end}`, `{YTID}` or `Y{YTID}`, whatever its type.
    Rows without audio are left out with one warning. UserError: a file or row that cannot be
    read, a label that `classes` does not list, no audio at all.
    """
    return _segments([csv_path], AudioFiles(audio_dir), classes)


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


def read_segment_lists(directory: Path, classes: ClassList) -> tuple[SegmentList, SegmentList]:
    """The training and the evaluation segments of a corpus folder laid out as AudioSet's files."""
    files = AudioFiles(directory / "audio")
    evaluation = _segments([directory / EVALUATION_FILE], files, classes)
    return _segments(segment_tables(directory), files, classes), evaluation


def read_evaluation_list(directory: Path, classes: ClassList) -> SegmentList:
    """The evaluation segments of a folder laid out as AudioSet's files, alone."""
    return read_segments(directory / EVALUATION_FILE, directory / "audio", classes)


def _existing(directory: Path, names: Iterable[str]) -> list[Path]:
    return [directory / name for name in names if (directory / name).exists()]


def _segments(paths: Sequence[Path], files: AudioFiles, classes: ClassList) -> SegmentList:
    with _without_collector():
        return _read_segments(paths, files, classes)


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


def _read_segments(paths: Sequence[Path], files: AudioFiles, classes: ClassList) -> SegmentList:
    builder = SegmentBuilder()
    labels = _LabelReader(classes)
    missing, first_missing = 0, ""
    for path in paths:
        empty = True
        for rows in _chunks(read_rows(path, comments=True)):
            empty = False
            parsed = [_parse(row, labels, path, line) for line, row in rows]
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
                [row.labels for row in parsed],
            )
        if empty:
            raise UserError(f"{path}: expected rows of segments, found none")
    names = " and ".join(str(path) for path in paths)
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
    return builder.build(files.names, len(classes), missing)


class _Time(NamedTuple):
    seconds: float
    written: str
    short: str
    milliseconds: int


class _Row(NamedTuple):
    ytid: str
    start: _Time
    end: _Time
    labels: tuple[int, ...]

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
            "correct it or use the class list that belongs to this file"
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
    """Reads `mid,mid`; most rows have a combination that another row had before."""

    def __init__(self, classes: ClassList) -> None:
        self.read = lru_cache(maxsize=1 << 16)(partial(_labels, classes=classes))


def _labels(mids: str, classes: ClassList) -> tuple[int, ...]:
    """Class indices, ascending; KeyError with a mid that the class list lacks."""
    names = filter(None, (mid.strip() for mid in mids.split(",")))
    return tuple(sorted({classes.index(mid) for mid in names}))


def _bad_times(where: str, start: str, end: str) -> UserError:
    return UserError(f"{where}: expected 0 <= start < end in seconds, found {start} and {end}")


def _times(start: str, end: str, where: str) -> tuple[float, float]:
    first, last = _time(start), _time(end)
    if first is None or last is None or first.seconds >= last.seconds:
        raise _bad_times(where, start, end)
    return first.seconds, last.seconds
