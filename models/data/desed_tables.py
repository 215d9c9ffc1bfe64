"""The text files of DESED and of DCASE's task 4, by file name of the clips.

    weak         filename, event_labels      the classes, with commas between
    strong       filename, onset, offset, event_label      a line an event, times in seconds
    unlabelled   filename
    durations    filename, duration          not needed, and passed over

Tab-separated, with these headers; a strong list's line without times and label is a clip without
events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.data.tables import read_rows, shown
from models.errors import UserError

_EVALUATION = ("validation", "eval", "test", "public")
_WEAK = (["filename", "event_labels"],)
STRONG = (
    ["filename", "onset", "offset", "event_label"],
    ["filename", "onset", "offset", "event_labels"],
)
_UNLABELLED = (["filename"],)
_DURATIONS = (["filename", "duration"],)


@dataclass
class DesedList:
    """One file: its clips' classes by name, and its events, where it is strong.

    Attributes:
        name: its path under `metadata/`, without its type.
        labels: of each file name.
        events: onset, offset and label of each file name.
        labelled: whether it says anything of its clips.
    """

    path: Path
    name: str
    labels: dict[str, list[str]]
    events: dict[str, list[tuple[float, float, str]]] | None
    labelled: bool


def desed_lists(directory: Path) -> list[Path]:
    """The lists of a corpus folder: the TSV files under `metadata/`."""
    return sorted((directory / "metadata").rglob("*.tsv"))


def read_lists(directory: Path) -> list[DesedList]:
    """All lists but those of durations."""
    read = (read_list(path, directory / "metadata") for path in desed_lists(directory))
    return [each for each in read if each is not None]


def is_desed_list(path: Path) -> bool:
    """Whether a file begins as one of DESED's lists does."""
    _, header = next(read_rows(path, delimiter="\t"), (0, []))
    return header[:1] == ["filename"]


def is_evaluation(name: str) -> bool:
    """Whether a list of this name is for the evaluation."""
    return has_part(name, _EVALUATION)


def has_part(name: str, beginnings: tuple[str, ...]) -> bool:
    """Whether a folder or file in a list's name begins with one of these."""
    return any(part.startswith(beginnings) for part in name.split("/"))


def read_list(path: Path, metadata: Path) -> DesedList | None:
    """A list; None where it is one of durations."""
    rows = read_rows(path, delimiter="\t")
    _, header = next(rows, (0, []))
    if header in _DURATIONS:
        return None
    kinds = (_WEAK, STRONG, _UNLABELLED)
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
        elif kind is STRONG:
            clip_events = events.setdefault(row[0], [])
            if any(row[1:]):
                onset, offset, label = _event(row, path, line)
                clip_events.append((onset, offset, label))
                named.append(label)
    name = path.relative_to(metadata).with_suffix("").as_posix()
    return DesedList(
        path, name, labels, events if kind is STRONG else None, kind is not _UNLABELLED
    )


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
