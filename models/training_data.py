"""The clips of a training run: balanced batches to learn from, held-out clips, evaluation clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from models.data.clips import ClipDataset, collate
from models.data.corpus import Corpus
from models.data.part_batches import PartBatches
from models.data.sampling import BalancedBatchSampler, held_out_split
from models.data.segments import ClipSource
from models.errors import UserError
from models.feature_cache import FeatureBatch, FeatureClips, collate_features
from models.features import FeaturePreset, FrontEnd
from models.step_batches import StepBatches, part_sizes
from models.system import Batch, move_batch


@dataclass(frozen=True)
class LoadingOptions:
    """How clips are read.

    Attributes:
        batch_size: clips that a step learns from, in all processes together.
        held_out: part of the training clips that thresholds and learning rate are set by.
        seed: of the split and the order.
        workers: processes that read audio, for each process that trains.
        strict: stop at a clip that cannot be read, instead of leaving it out.
        accumulate: pieces that a process's part of a step is computed in.
        parts: strongly labelled, weakly labelled and unlabelled clips in a step, `batch_size` in
            all; None to take no notice of the difference, and no unlabelled clips.
        max_ratio: how many times as often as the rarest class one is drawn at most.
    """

    batch_size: int = 32
    held_out: float = 0.1
    seed: int = 0
    workers: int = 0
    strict: bool = False
    accumulate: int = 1
    max_ratio: int = 1
    parts: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a corpus in memory, for one run or for several."""

    train: FeatureClips
    evaluation: FeatureClips
    unlabelled: FeatureClips | None = None


def cache_features(
    corpus: Corpus, preset: FeaturePreset, workers: int = 0, strict: bool = False
) -> CachedFeatures:
    """Compute the features of every clip of a corpus."""
    classes = len(corpus.classes)

    def features(clips: ClipSource, description: str) -> FeatureClips:
        return FeatureClips(clips, classes, preset, workers, description, strict)

    unlabelled = corpus.unlabelled
    return CachedFeatures(
        features(corpus.train_clips, "training features"),
        features(corpus.evaluation_clips, "evaluation features"),
        None if unlabelled is None else features(unlabelled, "unlabelled features"),
    )


class ClipData(LightningDataModule):
    """What loaders over clips of any kind have in common.

    A kind has `_held_out`, what can be cut into every so many-th, and `_in_order`, a loader over
    such a part.
    """

    corpus: Corpus
    _held_out: Any
    _in_order: Callable[[Any], DataLoader]
    allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def running(self) -> Trainer:
        """The trainer that the loaders serve."""
        return cast(Trainer, self.trainer)

    def val_dataloader(self) -> DataLoader:
        """This process's share of the held-out clips."""
        trainer = self.running
        return self._in_order(self._held_out[trainer.global_rank :: trainer.world_size])

    def held_out_dataloader(self) -> DataLoader:
        """The held-out clips, all of them."""
        return self._in_order(self._held_out)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move all but the lengths."""
        return move_batch(batch, device)

    def features_of(
        self, batches: Iterable[Batch], front_end: FrontEnd
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Features before normalisation and real frames of training batches.

        Raises:
            UserError: where no clip of them can be read.
        """
        found = False
        for batch in batches:
            if not len(batch):
                continue
            found = True
            if isinstance(batch, FeatureBatch):
                yield batch.features, batch.lengths
            else:
                yield front_end.extract(batch.waveform, batch.lengths)
        if not found:
            raise UserError(
                f"{self.corpus.directory}: none of its training clips can be read: replace them"
            )


class TrainingData(ClipData):
    """Loaders over a corpus, of waveforms or of cached features.

    Attributes:
        unreadable: what is wrong with each clip that could not be read so far, by its name.

    Raises:
        UserError: where the training clips are too few to hold any out.
    """

    def __init__(
        self,
        corpus: Corpus,
        preset: FeaturePreset,
        options: LoadingOptions,
        cache: CachedFeatures | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.preset = preset
        self.cache = cache
        self.corpus = corpus
        self.unreadable: dict[str, str] = {}
        labels = corpus.train_clips.labels
        if corpus.held_out is None:
            training, held_out = held_out_split(labels, options.held_out, options.seed)
        else:
            training = np.setdiff1d(np.arange(labels.shape[0]), corpus.held_out)
            held_out = corpus.held_out
        if not len(training) or not len(held_out):
            raise UserError(
                f"{corpus.directory}: expected training clips enough to hold out "
                f"{options.held_out:.0%} of them, found {labels.shape[0]}: add clips"
            )
        self._train = cache.train if cache else self._clips(corpus.train_clips)
        self._training, self._held_out = training, held_out
        self._evaluation = cache.evaluation if cache else self._clips(corpus.evaluation_clips)
        self.batches = self._parts() if options.parts else self._sampler(training)

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Clips of each part in a step."""
        return part_sizes(self.batches)

    def train_dataloader(self) -> DataLoader:
        """The epoch's batches; where an interrupted epoch goes on, those that are left of it."""
        trainer = self.running
        progress = trainer.fit_loop.epoch_loop.batch_progress
        done = 0 if progress.is_last_batch else progress.current.ready
        accumulate = self.options.accumulate
        steps = StepBatches(
            self.batches,
            trainer.global_rank,
            trainer.world_size,
            accumulate,
            start=done // accumulate,
        )
        self.batches.set_epoch(trainer.current_epoch)
        return self._loader(
            self._learned_from(),
            batch_sampler=steps,
            persistent_workers=self._workers > 0,
        )

    def evaluation_dataloader(self) -> DataLoader:
        """The evaluation clips."""
        return self._loader(self._evaluation, batch_size=self.options.batch_size)

    def normalisation_batches(
        self, front_end: FrontEnd, limit: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of up to `limit` training clips, drawn with the run's seed.

        Raises:
            UserError: where none of them can be read.
        """
        generator = torch.Generator().manual_seed(self.options.seed)
        chosen = torch.randperm(len(self._training), generator=generator)[:limit].sort().values
        return self.features_of(self._in_order(self._training[chosen.numpy()]), front_end)

    def _sampler(self, training: np.ndarray, size: int | None = None) -> BalancedBatchSampler:
        options = self.options
        return BalancedBatchSampler(
            self.corpus.train_clips.labels[training],
            size or options.batch_size,
            options.seed,
            options.max_ratio,
        )

    def _parts(self) -> PartBatches:
        """Batches of the three parts; unlabelled clips are counted after all training clips."""
        corpus, training = self.corpus, self._training
        sizes = dict(
            zip(
                ("strongly labelled", "weakly labelled", "unlabelled"),
                self.options.parts or (0, 0, 0),
                strict=True,
            )
        )
        is_strong = np.array(
            [
                corpus.train_clips[index].clip_id in corpus.train_strong
                for index in training.tolist()
            ]
        )
        others = 0 if corpus.unlabelled is None else len(corpus.unlabelled)
        clips = dict(
            zip(
                sizes,
                (
                    training[is_strong],
                    training[~is_strong],
                    len(corpus.train_clips) + np.arange(others),
                ),
                strict=True,
            )
        )
        for name, part in clips.items():
            if sizes[name] and not len(part):
                raise UserError(
                    f"{corpus.directory}: expected {name} training clips for --mean-teacher, found "
                    "none: ask for 0 of them"
                )
        used = [name for name in sizes if sizes[name]]
        samplers = [
            BalancedBatchSampler([()] * others, sizes[name], self.options.seed)
            if name == "unlabelled"
            else self._sampler(clips[name], sizes[name])
            for name in used
        ]
        labelled = sum(name != "unlabelled" for name in used)
        return PartBatches(samplers, [clips[name] for name in used], labelled)

    def _learned_from(self) -> Dataset:
        if not self.options.parts:
            return self._part(self._training)
        if self.corpus.unlabelled is None:
            return self._train
        unlabelled = self.cache.unlabelled if self.cache else self._clips(self.corpus.unlabelled)
        return ConcatDataset([self._train, cast(Dataset, unlabelled)])

    def _part(self, indices: Any) -> Dataset:
        """The training clips at `indices`, an array."""
        return Subset(self._train, indices)

    def _clips(self, clips: ClipSource) -> ClipDataset:
        return ClipDataset(
            clips,
            len(self.corpus.classes),
            self.preset.sample_rate,
            self.preset.clip_seconds,
            self.options.strict,
        )

    @property
    def _workers(self) -> int:
        return 0 if self.cache else self.options.workers

    def _in_order(self, indices: Any) -> DataLoader:
        return self._loader(self._part(indices), batch_size=self.options.batch_size)

    def _loader(self, clips: Dataset, **how: Any) -> DataLoader:
        return NamingLoader(
            self.unreadable,
            clips,
            collate_fn=collate_features if self.cache else collate,
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available() and not self.cache,
            **how,
        )


class NamingLoader(DataLoader):
    """A loader that notes the clips which its batches lack."""

    def __init__(self, unreadable: dict[str, str], clips: Dataset, **how: Any) -> None:
        super().__init__(clips, **how)
        self._unreadable = unreadable

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            for clip in batch.unreadable:
                self._unreadable.setdefault(clip.clip_id, clip.reason)
            yield batch
