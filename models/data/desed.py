"""The lists of DESED and of DCASE's task 4: weak, strong and unlabelled clips, by file name.

    weak         filename, event_labels      the classes, with commas between
    strong       filename, onset, offset, event_label      a line an event, times in seconds
    unlabelled   filename

Tab-separated, with these headers; a strong list's line without times and label is a clip without
events. A list `metadata/a/b.tsv` names files under `audio/a/b/` where there is such a folder, else
anywhere under `audio/`. Lists whose path has a part that begins with validation, eval, test or
public are for the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.data.audio_files import AudioFiles
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.segments import Segment, SegmentList
from models.data.tables import read_rows, shown
from models.errors import UserError

_EVALUATION = ("validation", "eval", "test", "public")
_WEAK = (["filename", "event_labels"],)
_STRONG = (
    ["filename", "onset", "offset", "event_label"],
    ["filename", "onset", "offset", "event_labels"],
)
_UNLABELLED = (["filename"],)
_SECONDS = 10.0
"""How long a clip is taken to be; its file says how long it is."""


@dataclass
class DesedLists:
    """What the lists of a folder say.

    Attributes:
        train: weakly and strongly labelled training clips.
        evaluation: labelled evaluation clips.
        unlabelled: training clips of which nothing is known.
        train_strong, strong: events of the strongly labelled ones, by clip.
    """

    train: SegmentList
    evaluation: SegmentList
    unlabelled: SegmentList
    train_strong: dict[str, list[StrongLabel]] = field(default_factory=dict)
    strong: dict[str, list[StrongLabel]] = field(default_factory=dict)


@dataclass
class _List:
    """One file: its clips' classes by name, and its events, where it is strong."""

    path: Path
    name: str
    labels: dict[str, list[str]]
    events: dict[str, list[tuple[float, float, str]]] | None
    labelled: bool


def desed_lists(directory: Path) -> list[Path]:
    """The lists of a corpus folder: the TSV files under `metadata/`."""
    return sorted((directory / "metadata").rglob("*.tsv"))


def read_desed(directory: Path, classes: ClassList | None) -> tuple[DesedLists, ClassList]:
    """Read the lists of a corpus folder.

    Args:
        directory: the folder.
        classes: the classes, by machine id or by name; None for those that the lists name, in
            alphabetical order.

    Raises:
        UserError: a list or line that is none of the three kinds, an unknown class, no labelled
            training or evaluation clip that has audio.
    """
    lists = [_read(path, directory / "metadata") for path in desed_lists(directory)]
    if classes is None:
        names = sorted({label for each in lists for row in each.labels.values() for label in row})
        classes = ClassList(tuple(names), tuple(names))
    columns = {name: index for index, name in enumerate(classes.names)}
    columns |= {mid: index for index, mid in enumerate(classes.mids)}
    strong: dict[bool, dict[str, list[StrongLabel]]] = {True: {}, False: {}}
    clips: dict[str, list[Segment]] = {"train": [], "eval": [], "unlabelled": []}
    for each in lists:
        evaluated = _is_evaluation(each.name)
        part = ("eval" if evaluated else "train") if each.labelled else "unlabelled"
        found = _segments(each, directory, columns)
        clips[part] += found
        if each.events is not None:
            there = {segment.clip_id for segment in found}
            for file, events in each.events.items():
                clip_id = _clip_id(each, file)
                if clip_id in there:
                    strong[evaluated][clip_id] = [
                        StrongLabel(clip_id, onset, offset, columns[label])
                        for onset, offset, label in events
                    ]
    for part, expected in (("train", "training"), ("eval", "evaluation")):
        if not clips[part]:
            raise UserError(
                f"{directory}: expected labelled {expected} clips in the lists under metadata/, "
                "with files under audio/, found none"
            )
    train, evaluation, unlabelled = (
        SegmentList.of(clips[part], len(classes)) for part in ("train", "eval", "unlabelled")
    )
    return DesedLists(train, evaluation, unlabelled, strong[False], strong[True]), classes


def _read(path: Path, metadata: Path) -> _List:
    rows = read_rows(path, delimiter="\t")
    _, header = next(rows, (0, []))
    kinds = (_WEAK, _STRONG, _UNLABELLED)
    kind = next((kind for kind in kinds if header in kind), None)
    if kind is None:
        raise UserError(
            f"{path}: expected the tab-separated header filename event_labels, filename onset "
            f"offset event_label, or filename, found {' '.join(header) or 'nothing'}"
        )
    labels: dict[str, list[str]] = {}
    events: dict[str, list[tuple[float, float, str]]] = {}
    for line, row in rows:
        if not row or not row[0] or len(row) > len(header):
            raise UserError(f"{path}, line {line}: expected {' '.join(header)}, found {shown(row)}")
        named = labels.setdefault(row[0], [])
        if kind is _WEAK and len(row) == 2:
            named += [label.strip() for label in row[1].split(",") if label.strip()]
        elif kind is _STRONG:
            clip_events = events.setdefault(row[0], [])
            if any(row[1:]):
                onset, offset, label = _event(row, path, line)
                clip_events.append((onset, offset, label))
                named.append(label)
    name = path.relative_to(metadata).with_suffix("").as_posix()
    return _List(path, name, labels, events if kind is _STRONG else None, kind is not _UNLABELLED)


def _event(row: Sequence[str], path: Path, line: int) -> tuple[float, float, str]:
    try:
        onset, offset = float(row[1]), float(row[2])
        label = row[3]
    except (ValueError, IndexError):
        onset, offset, label = 0.0, 0.0, ""
    if not (0 <= onset < offset < float("inf") and label):
        raise UserError(
            f"{path}, line {line}: expected 0 <= onset < offset in seconds and a label, found "
            f"{shown(row)}"
        )
    return onset, offset, label


def _segments(each: _List, directory: Path, columns: dict[str, int]) -> list[Segment]:
    own = directory / "audio" / each.name
    files = AudioFiles(own if own.is_dir() else directory / "audio")
    names = list(each.labels)
    found = files.find([Path(name).stem for name in names])
    segments = []
    for name, file in zip(names, found.tolist(), strict=True):
        unknown = next((label for label in each.labels[name] if label not in columns), None)
        if unknown is not None:
            raise UserError(
                f"{each.path}: the label {unknown} of {name} is not in the class list: correct it "
                "or use the class list that belongs to this file"
            )
        if file >= 0:
            labels = tuple(sorted({columns[label] for label in each.labels[name]}))
            path = files.names.path(file)
            segments.append(Segment(_clip_id(each, name), path, 0.0, _SECONDS, labels))
    return segments


def _clip_id(each: _List, name: str) -> str:
    """Files of two lists may have the same name."""
    return f"{each.name}/{Path(name).stem}"


def _is_evaluation(name: str) -> bool:
    return any(part.startswith(_EVALUATION) for part in name.split("/"))
