"""The lists of DESED and of DCASE's task 4: weak, strong and unlabelled clips, by file name.

Their form is that of `models.data.desed_tables`. A list `metadata/a/b.tsv` names files under
`audio/a/b/` or `audio/a/b_16k/` where there is such a folder, else under `audio/a/` and then
anywhere under `audio/`.

Lists whose path has a part that begins with validation, eval, test or public are for the
evaluation: of them `validation.tsv` alone, where it is there, else those without a part that begins
with synthetic, else all. The others wait to be named. An audio file counts once, however many
lists name it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from models.data.audio_files import AudioFiles
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.desed_tables import (
    STRONG,
    DesedList,
    has_part,
    is_evaluation,
    read_list,
    read_lists,
)
from models.data.segments import Segment, SegmentList
from models.errors import UserError

_SECONDS = 10.0
"""How long a clip is taken to be; its file says how long it is."""

logger = logging.getLogger(__name__)


@dataclass
class DesedLists:
    """What the lists of a folder say.

    Attributes:
        train: weakly and strongly labelled training clips, and after them those that are held out.
        evaluation: labelled evaluation clips.
        unlabelled: training clips of which nothing is known.
        train_strong, strong: events of the strongly labelled ones, by clip.
        held_out: how many clips at the end of `train` come from lists that are held out.
    """

    train: SegmentList
    evaluation: SegmentList
    unlabelled: SegmentList
    train_strong: dict[str, list[StrongLabel]] = field(default_factory=dict)
    strong: dict[str, list[StrongLabel]] = field(default_factory=dict)
    held_out: int = 0


def read_desed(
    directory: Path,
    classes: ClassList | None,
    eval_lists: Sequence[str] = (),
    held_out_lists: Sequence[str] = (),
    training: bool = True,
    ignore_unknown_labels: bool = False,
) -> tuple[DesedLists, ClassList]:
    """Read the lists of a corpus folder.

    Args:
        directory: the folder.
        classes: the classes, by machine id or by name; None for those that the lists name, in
            alphabetical order.
        eval_lists: names of the lists to evaluate on, as `validation/validation`; none for those
            that the module's docstring says.
        held_out_lists: names of the lists whose clips are held out of training.
        training: read training clips, of which there must be some; without, the evaluation alone.
        ignore_unknown_labels: leave labels out that `classes` lacks, and clips that have no other,
            with one warning.

    Raises:
        UserError: a list or line that is none of the known kinds, an unknown class, a name of no
            labelled list, no labelled training or evaluation clip that has audio.
    """
    lists = read_lists(directory)
    if classes is not None and ignore_unknown_labels:
        lists = _with_known_labels(lists, _columns(classes), directory)
    classes = classes or _named_classes(lists)
    held_out = _chosen(lists, held_out_lists, directory)
    evaluated = _chosen(lists, eval_lists, directory) or _default_evaluation(lists, held_out)
    both = [each.name for each in held_out if each in evaluated]
    if both:
        raise UserError(f"{both[0]}: expected a list to hold out or to evaluate on, got both")
    learned = [
        each
        for each in lists
        if training and not is_evaluation(each.name) and each not in [*evaluated, *held_out]
    ]
    clips = _Clips(directory, classes)
    read = clips.of(evaluated)
    kept = clips.of(held_out)
    train = clips.of([each for each in learned if each.labelled], but=kept)
    unlabelled = clips.of([each for each in learned if not each.labelled], but={**train, **kept})
    for found, needed, expected in ((train, training, "training"), (read, True, "evaluation")):
        if needed and not found:
            raise _without_clips(directory, expected)
    return DesedLists(
        SegmentList.of([*_segments(train), *_segments(kept)], len(classes)),
        SegmentList.of(_segments(read), len(classes)),
        SegmentList.of(_segments(unlabelled), len(classes)),
        {**_events(train), **_events(kept)},
        _events(read),
        len(kept),
    ), classes


def read_desed_events(path: Path, classes: ClassList) -> list[StrongLabel]:
    """The events of a strong list, or of all that a corpus folder has for training, whether their
    audio is there or not.

    Events of other classes are left out with one warning.

    Raises:
        UserError: a list that cannot be read or, alone, is not strong.
    """
    if path.is_dir():
        lists = [each for each in read_lists(path) if not is_evaluation(each.name)]
    else:
        alone = read_list(path, path.parent)
        if alone is None or alone.events is None:
            raise UserError(f"{path}: expected a strong list, {' '.join(STRONG[0])}")
        lists = [alone]
    columns = _columns(classes)
    every = [
        (file, *event)
        for each in lists
        for file, events in (each.events or {}).items()
        for event in events
    ]
    unknown = [label for *_, label in every if label not in columns]
    if unknown:
        logger.warning(
            "%s: left out %d events whose class is not in the class list (first: %s)",
            *(path, len(unknown), unknown[0]),
        )
    return [
        StrongLabel(file, onset, offset, columns[label])
        for file, onset, offset, label in every
        if label in columns
    ]


def _columns(classes: ClassList) -> dict[str, int]:
    columns = {name: index for index, name in enumerate(classes.names)}
    return columns | {mid: index for index, mid in enumerate(classes.mids)}


def _with_known_labels(
    lists: Sequence[DesedList], known: Mapping[str, int], directory: Path
) -> list[DesedList]:
    """The lists without other labels, and without the clips that have others alone."""
    unknown = [
        label
        for each in lists
        for row in each.labels.values()
        for label in row
        if label not in known
    ]
    if not unknown:
        return list(lists)
    kept = []
    for each in lists:
        labels = {
            name: [label for label in row if label in known]
            for name, row in each.labels.items()
            if not row or any(label in known for label in row)
        }
        events = each.events and {
            name: [event for event in each.events[name] if event[2] in known] for name in labels
        }
        kept.append(replace(each, labels=labels, events=events))
    clips, left = (sum(len(each.labels) for each in group) for group in (lists, kept))
    logger.warning(
        "%s: left out %d labels whose class is not in the class list (first: %s), and %d clips "
        "that have no other",
        *(directory, len(unknown), unknown[0], clips - left),
    )
    return kept


def _named_classes(lists: Iterable[DesedList]) -> ClassList:
    names = sorted({label for each in lists for row in each.labels.values() for label in row})
    return ClassList(tuple(names), tuple(names))


def _without_clips(directory: Path, expected: str) -> UserError:
    return UserError(
        f"{directory}: expected labelled {expected} clips in the lists under metadata/, "
        "with files under audio/, found none"
    )


def _chosen(lists: Sequence[DesedList], names: Sequence[str], directory: Path) -> list[DesedList]:
    known = {each.name: each for each in lists if each.labelled}
    found = []
    for name in dict.fromkeys(name.removesuffix(".tsv") for name in names):
        if name not in known:
            raise UserError(
                f"{directory}: expected the name of one of its labelled lists "
                f"({', '.join(known)}), got {name}"
            )
        found.append(known[name])
    return found


def _default_evaluation(
    lists: Sequence[DesedList], held_out: Sequence[DesedList]
) -> list[DesedList]:
    every = [
        each
        for each in lists
        if each.labelled and is_evaluation(each.name) and each not in held_out
    ]
    real = [each for each in every if not has_part(each.name, ("synthetic",))]
    validation = [each for each in real if each.path.stem == "validation"]
    chosen = validation or real or every
    left = [each.name for each in every if each not in chosen]
    if left:
        logger.warning(
            "evaluation on %s and not on %s: --eval-lists chooses others",
            *(", ".join(each.name for each in chosen), ", ".join(left)),
        )
    return chosen


@dataclass(frozen=True)
class _Found:
    """A clip that has audio, and its events where they are known."""

    segment: Segment
    events: list[StrongLabel] | None


class _Clips:
    """The clips of lists that have audio."""

    def __init__(self, directory: Path, classes: ClassList) -> None:
        self._audio = directory / "audio"
        self._columns = _columns(classes)
        # Several lists may name files of the same folder.
        self._files: Callable[[Path], AudioFiles] = lru_cache(maxsize=None)(AudioFiles)

    def of(self, lists: Iterable[DesedList], but: Mapping[Path, object] = {}) -> dict[Path, _Found]:
        """The clips of some lists by audio file, without those of `but`.

        Of a file that several lists name, the first that knows its events counts, else the first.
        """
        clips: dict[Path, _Found] = {}
        for each in sorted(lists, key=lambda one: one.events is None):
            for path, found in self._of(each):
                if path not in but:
                    clips.setdefault(path, found)
        return clips

    def _of(self, each: DesedList) -> Iterator[tuple[Path, _Found]]:
        for name, path in self._paths(each).items():
            clip_id = f"{each.name}/{Path(name).stem}"  # Files of two lists may have one name.
            labels = tuple(sorted({self._column(label, each, name) for label in each.labels[name]}))
            events = None
            if each.events is not None:
                events = [
                    StrongLabel(clip_id, onset, offset, self._columns[label])
                    for onset, offset, label in each.events[name]
                ]
            yield path, _Found(Segment(clip_id, path, 0.0, _SECONDS, labels), events)

    def _column(self, label: str, each: DesedList, name: str) -> int:
        if label not in self._columns:
            raise UserError(
                f"{each.path}: the label {label} of {name} is not in the class list: correct it, "
                "use the class list that belongs to this file or --ignore-unknown-labels"
            )
        return self._columns[label]

    def _paths(self, each: DesedList) -> dict[str, Path]:
        """The audio file of each name in a list that has one."""
        found: dict[str, Path] = {}
        left = list(each.labels)
        for folder in self._folders(each.name):
            files = self._files(folder)
            numbers = files.find([Path(name).stem for name in left]).tolist()
            pairs = list(zip(left, numbers, strict=True))
            found |= {name: files.names.path(number) for name, number in pairs if number >= 0}
            left = [name for name, number in pairs if number < 0]
            if not left:
                break
        return {name: found[name] for name in each.labels if name in found}

    def _folders(self, name: str) -> list[Path]:
        own = [self._audio / name, self._audio / f"{name}_16k"]
        if any(folder.is_dir() for folder in own):
            return [folder for folder in own if folder.is_dir()]
        around = [self._audio / part for part in Path(name).parents]
        return [folder for folder in around[:-1] if folder.is_dir()] + [self._audio]


def _segments(clips: Mapping[Path, _Found]) -> list[Segment]:
    return [found.segment for found in clips.values()]


def _events(clips: Mapping[Path, _Found]) -> dict[str, list[StrongLabel]]:
    return {
        found.segment.clip_id: found.events for found in clips.values() if found.events is not None
    }
