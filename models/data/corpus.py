"""A corpus folder of any kind that is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.data.audioset import (
    EVALUATION_FILE,
    INCOMPLETE,
    TRAIN_FILES,
    StrongLabel,
    read_evaluation_list,
    read_segment_lists,
    read_strong_labels,
    segment_tables,
)
from models.data.classes import ClassList
from models.data.desed import read_desed, read_desed_events
from models.data.desed_tables import desed_lists, is_desed_list
from models.data.packs import read_packs
from models.data.segments import ClipSource
from models.data.shards import Shards
from models.data.tables import kind
from models.errors import UserError

CLASSES_FILE = "class_labels_indices.csv"


@dataclass(frozen=True)
class CorpusOptions:
    """What of a corpus folder is read; `models.train --help` describes each option."""

    eval_lists: tuple[str, ...] = ()
    held_out_lists: tuple[str, ...] = ()
    ignore_unknown_labels: bool = False


@dataclass(frozen=True)
class Corpus:
    """A corpus folder, read.

    Attributes:
        directory: the folder.
        classes: in the order of the labels.
        train: clips with weak labels; of some, `train_strong` holds the events.
        evaluation: clips with weak labels; of some or all, `strong` holds the events.
        strong: a clip id's events; empty where localisation cannot be measured.
        train_strong: the same for training clips.
        unlabelled: training clips of which nothing is known.
        held_out: rows of `train` that are not learned from; None for a part of them drawn at
            random.
    """

    directory: Path
    classes: ClassList
    train: ClipSource | Shards
    evaluation: ClipSource | Shards
    strong: Mapping[str, list[StrongLabel]] = field(default_factory=dict)
    train_strong: Mapping[str, list[StrongLabel]] = field(default_factory=dict)
    unlabelled: ClipSource | None = None
    held_out: np.ndarray | None = None

    @property
    def train_clips(self) -> ClipSource:
        """The training clips; UserError where they are streamed from shards."""
        return self._listed(self.train)

    @property
    def evaluation_clips(self) -> ClipSource:
        """The evaluation clips; UserError where they are streamed from shards."""
        return self._listed(self.evaluation)

    def _listed(self, split: ClipSource | Shards) -> ClipSource:
        if isinstance(split, Shards):
            raise UserError(
                f"{self.directory}: expected a corpus that is not streamed from shards, found "
                f"{split.paths[0].name}"
            )
        return split


@dataclass(frozen=True)
class EvaluationSet:
    """The evaluation clips of a folder, read.

    Attributes:
        directory: the folder.
        classes: in the order of the labels.
        clips: with weak labels; of some or all, `strong` holds the events.
        strong: a clip id's events; empty where localisation cannot be measured.
    """

    directory: Path
    classes: ClassList
    clips: ClipSource | Shards
    strong: Mapping[str, list[StrongLabel]]


def open_corpus(directory: Path, options: CorpusOptions | None = None) -> Corpus:
    """Read a corpus folder: AudioSet's lists and an audio folder, packs, shards, or DESED's lists.

    - `class_labels_indices.csv`; without it, a folder of DESED's has the classes that its lists
      name.
    - `train_segments.csv` (or AudioSet's `balanced_train_segments.csv`,
      `unbalanced_train_segments.csv`, or both, taken together), `eval_segments.csv` and `audio/`;
      or the packs `train*.h5` (or PANNs' `*train*.h5`) and `eval*.h5`; or the shards `train*.tar`
      and `eval*.tar`, read when their clips are; or DESED's lists in `metadata/`, and `audio/`.
    - Optionally `eval_strong.tsv` and `train_strong.tsv`, or AudioSet's own names for them,
      `audioset_eval_strong.tsv` and `audioset_train_strong.tsv`.

    UserError names what is missing, half written or cannot be read.
    """
    options = options or CorpusOptions()
    _check_folder(directory, options)
    if desed_lists(directory):
        return _open_desed(directory, options)
    packs, shards = (_both_splits(directory, suffix) for suffix in ("h5", "tar"))
    _check_lists(directory, options, bool(packs or shards))
    if not packs and not shards and not segment_tables(directory):
        raise _nothing_known(directory, "train")
    classes = ClassList.read(directory / CLASSES_FILE)
    train: ClipSource | Shards
    evaluation: ClipSource | Shards
    if packs:
        train, evaluation = (read_packs(paths, len(classes)) for paths in packs)
    elif shards:
        train, evaluation = (Shards(tuple(paths)) for paths in shards)
    else:
        train, evaluation = read_segment_lists(directory, classes, options.ignore_unknown_labels)
    return Corpus(
        directory,
        classes,
        train,
        evaluation,
        _strong(directory, "eval", classes),
        _strong(directory, "train", classes),
    )


def open_evaluation_set(
    directory: Path, classes: ClassList | None = None, options: CorpusOptions | None = None
) -> EvaluationSet:
    """Read the evaluation clips of a folder as `open_corpus` does; it needs no training clips.

    Args:
        directory: the folder.
        classes: those of a detector; the folder then needs no `class_labels_indices.csv`, and one
            that is there must list the same. None for the folder's own.
        options: what of the folder is read.

    Raises:
        UserError: names what is missing, half written or cannot be read, or classes that differ.
    """
    options = options or CorpusOptions()
    _check_folder(directory, options)
    table = directory / CLASSES_FILE
    own = ClassList.read(table) if table.exists() else None
    if classes is not None and own is not None and own.mids != classes.mids:
        raise UserError(
            f"{table}: expected the detector's {len(classes)} classes, found {len(own)} others or "
            "in another order: use the class list that it was trained with"
        )
    if desed_lists(directory):
        lists, classes = read_desed(
            directory,
            classes or own,
            options.eval_lists,
            training=False,
            ignore_unknown_labels=options.ignore_unknown_labels,
        )
        return EvaluationSet(directory, classes, lists.evaluation, lists.strong)
    packs, shards = (_split_files(directory, "eval", suffix) for suffix in ("h5", "tar"))
    _check_lists(directory, options, bool(packs or shards))
    if not packs and not shards and not (directory / EVALUATION_FILE).exists():
        raise _nothing_known(directory, "eval")
    classes = classes or own or ClassList.read(table)
    clips: ClipSource | Shards
    if packs:
        clips = read_packs(packs, len(classes))
    elif shards:
        clips = Shards(tuple(shards))
    else:
        clips = read_evaluation_list(directory, classes, options.ignore_unknown_labels)
    return EvaluationSet(directory, classes, clips, _strong(directory, "eval", classes))


def read_events(path: Path, classes: ClassList) -> list[StrongLabel]:
    """The events of AudioSet's or DESED's strong labels, or of a corpus folder's training clips.

    Raises:
        UserError: for what cannot be read, or holds no event of the classes.
    """
    if path.is_dir() and not desed_lists(path):
        strong = _strong(path, "train", classes)
    elif path.is_dir() or is_desed_list(path):
        strong = {"": read_desed_events(path, classes)}
    else:
        strong = read_strong_labels(path, classes)
    events = [event for clip in strong.values() for event in clip]
    if not events:
        where = " of training clips" if path.is_dir() else ""
        raise UserError(f"{path}: expected events{where} of the detector's classes, found none")
    return events


def _check_folder(directory: Path, options: CorpusOptions) -> None:
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a corpus folder, found {kind(directory)}")
    if (directory / INCOMPLETE).exists():
        raise UserError(
            f"{directory}: this corpus is half written: run the mix command that made it again"
        )
    if (options.eval_lists or options.held_out_lists) and not desed_lists(directory):
        raise UserError(
            "--eval-lists, --held-out-lists: expected a corpus of DESED's lists, found no TSV file "
            f"in {directory / 'metadata'}"
        )


def _check_lists(directory: Path, options: CorpusOptions, is_packed: bool) -> None:
    if options.ignore_unknown_labels and is_packed:
        raise UserError(
            f"{directory}: expected AudioSet's or DESED's lists for --ignore-unknown-labels, found "
            "packs or shards"
        )


def _nothing_known(directory: Path, split: str) -> UserError:
    """For a folder of no kind that is known."""
    lists = " or ".join(name for group in TRAIN_FILES for name in group)
    lists, packs = (lists, "*train*") if split == "train" else (EVALUATION_FILE, "eval*")
    return UserError(
        f"{directory}: expected {lists}, packs {packs}.h5, shards {packs}.tar, or DESED's lists "
        "metadata/**/*.tsv in this corpus folder, found none of them"
    )


def _both_splits(directory: Path, suffix: str) -> list[list[Path]]:
    """The files of a type for training and for evaluation; neither without training files."""
    train, evaluation = (_split_files(directory, split, suffix) for split in ("train", "eval"))
    if train and not evaluation:
        raise UserError(f"{directory}: expected eval*.{suffix} beside {train[0].name}, found none")
    return [train, evaluation] if train else []


def _split_files(directory: Path, split: str, suffix: str) -> list[Path]:
    """A split's packs or shards; training ones may be named as PANNs', `balanced_train.h5`."""
    found = sorted(directory.glob(f"{split}*.{suffix}"))
    if split == "train" and not found:
        others = sorted(directory.glob(f"*train*.{suffix}"))
        found = [path for path in others if not path.name.startswith("eval")]
    return found


def _open_desed(directory: Path, options: CorpusOptions) -> Corpus:
    table = directory / CLASSES_FILE
    lists, classes = read_desed(
        directory,
        ClassList.read(table) if table.exists() else None,
        options.eval_lists,
        options.held_out_lists,
        ignore_unknown_labels=options.ignore_unknown_labels,
    )
    held_out = np.arange(len(lists.train) - lists.held_out, len(lists.train))
    return Corpus(
        directory,
        classes,
        lists.train,
        lists.evaluation,
        lists.strong,
        lists.train_strong,
        lists.unlabelled if len(lists.unlabelled) else None,
        held_out if options.held_out_lists else None,
    )


def _strong(directory: Path, split: str, classes: ClassList) -> dict[str, list[StrongLabel]]:
    for name in (f"{split}_strong.tsv", f"audioset_{split}_strong.tsv"):
        if (directory / name).exists():
            return read_strong_labels(directory / name, classes)
    return {}
