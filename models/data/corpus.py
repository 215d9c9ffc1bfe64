"""A corpus folder of any kind that is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.data.audioset import (
    INCOMPLETE,
    StrongLabel,
    read_segment_lists,
    read_strong_labels,
    segment_tables,
)
from models.data.classes import ClassList
from models.data.desed import desed_lists, read_desed
from models.data.packs import read_packs
from models.data.segments import ClipSource
from models.data.shards import Shards
from models.data.tables import kind
from models.errors import UserError


@dataclass(frozen=True)
class CorpusOptions:
    """What of a corpus folder is read; `models.train --help` describes each option."""

    eval_lists: tuple[str, ...] = ()
    held_out_lists: tuple[str, ...] = ()


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
        """The training clips of a corpus that is not streamed."""
        return _listed(self.train)

    @property
    def evaluation_clips(self) -> ClipSource:
        """The evaluation clips of a corpus that is not streamed."""
        return _listed(self.evaluation)


def _listed(split: ClipSource | Shards) -> ClipSource:
    if isinstance(split, Shards):
        raise TypeError("clips: expected those of a corpus that is not streamed from shards")
    return split


def open_corpus(directory: Path, options: CorpusOptions | None = None) -> Corpus:
    """Read a corpus folder: AudioSet's lists and an audio folder, packs, shards, or DESED's lists.

    - `class_labels_indices.csv`; without it, a folder of DESED's has the classes that its lists
      name.
    - `train_segments.csv` (or AudioSet's `balanced_train_segments.csv`,
      `unbalanced_train_segments.csv`, or both, taken together), `eval_segments.csv` and `audio/`;
      or the packs `train*.h5` and `eval*.h5`; or the shards `train*.tar` and `eval*.tar`, read
      when their clips are; or DESED's lists in `metadata/`, and `audio/`.
    - Optionally `eval_strong.tsv` and `train_strong.tsv`, or AudioSet's own names for them,
      `audioset_eval_strong.tsv` and `audioset_train_strong.tsv`.

    UserError names what is missing, half written or cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a corpus folder, found {kind(directory)}")
    if (directory / INCOMPLETE).exists():
        raise UserError(
            f"{directory}: this corpus is half written: run the mix command that made it again"
        )
    options = options or CorpusOptions()
    if desed_lists(directory):
        return _open_desed(directory, options)
    if options.eval_lists or options.held_out_lists:
        raise UserError(
            "--eval-lists, --held-out-lists: expected a corpus of DESED's lists, found no TSV file in "
            f"{directory / 'metadata'}"
        )
    packs, shards = (_both_splits(directory, suffix) for suffix in ("h5", "tar"))
    if not packs and not shards:
        segment_tables(directory)
    classes = ClassList.read(directory / "class_labels_indices.csv")
    train: ClipSource | Shards
    evaluation: ClipSource | Shards
    if packs:
        train, evaluation = (read_packs(paths, len(classes)) for paths in packs)
    elif shards:
        train, evaluation = (Shards(tuple(paths)) for paths in shards)
    else:
        train, evaluation = read_segment_lists(directory, classes)
    return Corpus(
        directory,
        classes,
        train,
        evaluation,
        _strong(directory, "eval", classes),
        _strong(directory, "train", classes),
    )


def _both_splits(directory: Path, suffix: str) -> list[list[Path]]:
    """The files of a type for training and for evaluation; neither without training files."""
    train, evaluation = (
        sorted(directory.glob(f"{split}*.{suffix}")) for split in ("train", "eval")
    )
    if train and not evaluation:
        raise UserError(f"{directory}: expected eval*.{suffix} beside {train[0].name}, found none")
    return [train, evaluation] if train else []


def _open_desed(directory: Path, options: CorpusOptions) -> Corpus:
    table = directory / "class_labels_indices.csv"
    lists, classes = read_desed(
        directory,
        ClassList.read(table) if table.exists() else None,
        options.eval_lists,
        options.held_out_lists,
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
