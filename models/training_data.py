"""The clips of a training run: balanced batches to learn from, held-out clips, evaluation clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from models.data.clips import ClipDataset, collate
from models.data.corpus import Corpus
from models.data.parts import Parts, split_parts
from models.data.sampling import BalancedBatchSampler, PartsBatchSampler, held_out_split
from models.data.segments import ClipSource
from models.errors import UserError
from models.feature_cache import FeatureClips, collate_features
from models.features import FeaturePreset, FrontEnd
from models.step_batches import StepBatches
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
        max_ratio: how many times as often as the rarest class one is drawn at most.
        shares: of strongly labelled, weakly labelled and unlabelled clips in a mini-batch; None to
            let classes take turns and take a clip without labels for one without any class.
    """

    batch_size: int = 32
    held_out: float = 0.1
    seed: int = 0
    workers: int = 0
    strict: bool = False
    accumulate: int = 1
    max_ratio: int = 1
    shares: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a corpus in memory, for one run or for several."""

    train: FeatureClips
    evaluation: FeatureClips


def cache_features(
    corpus: Corpus, preset: FeaturePreset, workers: int = 0, strict: bool = False
) -> CachedFeatures:
    """Compute the features of every clip of a corpus."""
    classes = len(corpus.classes)
    train, evaluation = (
        FeatureClips(segments, classes, preset, workers, description, strict)
        for segments, description in (
            (corpus.train, "training features"),
            (corpus.evaluation, "evaluation features"),
        )
    )
    return CachedFeatures(train, evaluation)


class TrainingData(LightningDataModule):
    """Loaders over a corpus, of waveforms or of cached features.

    Attributes:
        unreadable: what is wrong with each clip that could not be read so far, by its name.

    Raises:
        UserError: where the training clips are too few to hold any out.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

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
        labels = corpus.train.labels
        parts = None
        if options.shares is None:
            training, held_out = held_out_split(labels, options.held_out, options.seed)
        else:
            parts = split_parts(corpus, options.held_out, options.seed)
            training, held_out = parts.training, parts.held_out
        if not len(training) or not len(held_out):
            raise UserError(
                f"{corpus.directory}: expected training clips enough to hold out "
                f"{options.held_out:.0%} of them, found {labels.shape[0]}: add clips"
            )
        self._train = cache.train if cache else self._clips(corpus.train)
        self._training, self._held_out = training, held_out
        self._evaluation = cache.evaluation if cache else self._clips(corpus.evaluation)
        self.batches = (
            BalancedBatchSampler(
                labels[training], options.batch_size, options.seed, options.max_ratio
            )
            if parts is None
            else _part_batches(parts, options)
        )

    def train_dataloader(self) -> DataLoader:
        """The epoch's batches; where an interrupted epoch goes on, those that are left of it."""
        trainer = self.trainer
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
            Subset(self._train, self._training),
            batch_sampler=steps,
            persistent_workers=self._workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        """This process's share of the held-out clips: every so many-th."""
        trainer = self.trainer
        return self._in_order(self._held_out[trainer.global_rank :: trainer.world_size])

    def held_out_dataloader(self) -> DataLoader:
        """The held-out clips, all of them."""
        return self._in_order(self._held_out)

    def evaluation_dataloader(self) -> DataLoader:
        """The evaluation clips."""
        return self._loader(self._evaluation, batch_size=self.options.batch_size)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move all but the lengths."""
        return move_batch(batch, device)

    def normalisation_batches(
        self, front_end: FrontEnd, limit: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of up to `limit` training clips, drawn with the run's seed.

        Raises:
            UserError: where none of them can be read.
        """
        generator = torch.Generator().manual_seed(self.options.seed)
        chosen = torch.randperm(len(self._training), generator=generator)[:limit].sort().values
        found = False
        for batch in self._in_order(self._training[chosen.numpy()]):
            if not len(batch):
                continue
            found = True
            if self.cache:
                yield batch.features, batch.lengths
            else:
                yield front_end.extract(batch.waveform, batch.lengths)
        if not found:
            raise UserError(
                f"{self.corpus.directory}: none of its training clips can be read: replace them"
            )

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

    def _in_order(self, indices: object) -> DataLoader:
        return self._loader(Subset(self._train, indices), batch_size=self.options.batch_size)

    def _loader(self, clips: Dataset, **how: object) -> DataLoader:
        return _NamingLoader(
            self.unreadable,
            clips,
            collate_fn=collate_features if self.cache else collate,
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available() and not self.cache,
            **how,
        )


def _part_batches(parts: Parts, options: LoadingOptions) -> PartsBatchSampler:
    try:
        return PartsBatchSampler(parts.places(), options.shares, options.batch_size, options.seed)
    except ValueError as error:
        raise UserError(f"--batch-size: {error}") from error


class _NamingLoader(DataLoader):
    """A loader that notes the clips which its batches lack."""

    def __init__(self, unreadable: dict[str, str], clips: Dataset, **how: object) -> None:
        super().__init__(clips, **how)
        self._unreadable = unreadable

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            for clip in batch.unreadable:
                self._unreadable.setdefault(clip.clip_id, clip.reason)
            yield batch
