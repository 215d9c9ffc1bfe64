"""A training run's clips from WebDataset's shards, which are streamed and not indexed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torch.utils.data import DataLoader

from models.data.classes import ClassList
from models.data.corpus import Corpus
from models.data.segments import ClipSource
from models.data.shards import ClipStream, Shards, ShuffledClips, StreamOptions
from models.errors import UserError
from models.features import FeaturePreset, FrontEnd
from models.training_data import (
    ClipData,
    LoadingOptions,
    NamingLoader,
    TrainingData,
    clip_dataset,
)


class ShardData(ClipData):
    """Loaders over shards: `TrainingData` without classes in turns, which a stream cannot have.

    The last training shards are held out. An epoch has as many steps as `--epoch-batches` says.

    Args:
        corpus: whose splits are `Shards`.
        preset: the features.
        options: how clips are read.
        steps: in an epoch.

    Attributes:
        unreadable: what is wrong with each clip that could not be read so far, by its name.
        cut: names of the clips read so far that are longer than the features' clips.

    Raises:
        UserError: for a single training shard, which leaves none to hold out.
    """

    def __init__(
        self, corpus: Corpus, preset: FeaturePreset, options: LoadingOptions, steps: int
    ) -> None:
        super().__init__()
        shards = _shards(corpus.train)
        count = math.ceil(options.held_out * len(shards))
        if count >= len(shards):
            raise UserError(
                f"{corpus.directory}: expected training shards enough to hold {count} out, found "
                f"{len(shards)}: cut the clips into more shards"
            )
        self.corpus = corpus
        self.options = options
        self.steps = steps
        self.unreadable: dict[str, str] = {}
        self.cut: set[str] = set()
        self._training, self._held_out = shards[:-count], shards[-count:]
        self._stream = _stream_options(preset, options)

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Clips in a step."""
        return (self.options.batch_size,)

    def train_dataloader(self) -> DataLoader:
        """The epoch's batches; where an interrupted epoch goes on, those that are left of it."""
        trainer, options = self.running, self.options
        readers = trainer.world_size * max(1, options.workers)
        if len(self._training) < readers:
            raise UserError(
                f"{self.corpus.directory}: expected a training shard for each of {readers} worker "
                f"processes, found {len(self._training)}: lower --workers or cut more shards"
            )
        progress = trainer.fit_loop.epoch_loop.batch_progress
        size = options.batch_size // (trainer.world_size * options.accumulate)
        clips = ShuffledClips(
            self._training,
            self.corpus.classes,
            self._stream,
            size,
            options.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        return _EpochLoader(
            self,
            clips,
            first_epoch=trainer.current_epoch,
            start=0 if progress.is_last_batch else progress.current.ready,
            batch_size=size,
            num_workers=options.workers,
        )

    def evaluation_dataloader(self) -> DataLoader:
        """The evaluation clips."""
        return self._in_order(_shards(self.corpus.evaluation))

    def normalisation_batches(
        self, front_end: FrontEnd, limit: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of about `limit` training clips, the first ones.

        Raises:
            UserError: where none of them can be read.
        """
        batches = math.ceil(limit / self.options.batch_size)
        return self.features_of(islice(self._in_order(self._training), batches), front_end)

    def _in_order(self, shards: Sequence[Path]) -> DataLoader:
        clips = ClipStream(shards, self.corpus.classes, self._stream)
        return _stream_loader(clips, len(shards), self.options, self.unreadable, self.cut)


class _EpochLoader(NamingLoader):
    """Batches of an endless stream, of which an epoch takes so many."""

    def __init__(
        self,
        data: ShardData,
        clips: ShuffledClips,
        first_epoch: int,
        start: int,
        **how: Any,
    ) -> None:
        super().__init__(data.unreadable, data.cut, clips, **how)
        self._data = data
        self._clips = clips
        self._first_epoch = first_epoch
        self._start = start

    def __len__(self) -> int:
        return self._data.steps * self._data.options.accumulate

    def __iter__(self) -> Any:
        epoch = self._data.running.current_epoch
        self._clips.epoch = epoch
        self._clips.start = self._start if epoch == self._first_epoch else 0
        return super().__iter__()


def held_out_data(
    corpus: Corpus, preset: FeaturePreset, options: LoadingOptions
) -> TrainingData | ShardData:
    """The clips of a corpus of any kind, split as training did; nothing is learned from them."""
    if is_sharded(corpus):
        # Any number of steps will do.
        return ShardData(corpus, preset, options, steps=1)
    return TrainingData(corpus, preset, options)


def evaluation_loader(
    clips: ClipSource | Shards,
    classes: ClassList,
    preset: FeaturePreset,
    options: LoadingOptions,
    unreadable: dict[str, str],
    cut: set[str] | None = None,
) -> DataLoader:
    """A loader over evaluation clips of any kind; `unreadable` takes what it leaves out, and `cut`
    the names of those that are longer than the features' clips."""
    cut = set() if cut is None else cut
    if isinstance(clips, Shards):
        stream = ClipStream(clips.paths, classes, _stream_options(preset, options))
        return _stream_loader(stream, len(clips.paths), options, unreadable, cut)
    return NamingLoader(
        unreadable,
        cut,
        clip_dataset(clips, len(classes), preset, options),
        batch_size=options.batch_size,
        num_workers=options.workers,
    )


def _stream_options(preset: FeaturePreset, options: LoadingOptions) -> StreamOptions:
    return StreamOptions(preset.sample_rate, preset.clip_seconds, options.strict)


def _stream_loader(
    clips: ClipStream,
    shards: int,
    options: LoadingOptions,
    unreadable: dict[str, str],
    cut: set[str],
) -> DataLoader:
    workers = min(options.workers, shards)
    return NamingLoader(unreadable, cut, clips, batch_size=options.batch_size, num_workers=workers)


def _shards(split: ClipSource | Shards) -> tuple[Path, ...]:
    return cast(Shards, split).paths


def is_sharded(corpus: Corpus) -> bool:
    """Whether a corpus is streamed from shards."""
    return isinstance(corpus.train, Shards)
