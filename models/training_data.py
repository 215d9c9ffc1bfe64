"""The clips of a training run: balanced batches to learn from, held-out clips, evaluation clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from models.data.audioset import Corpus, SegmentList
from models.data.clips import ClipDataset, collate
from models.data.sampling import BalancedBatchSampler, held_out_split
from models.errors import UserError
from models.feature_cache import FeatureClips, collate_features
from models.features import FeaturePreset, FrontEnd
from models.system import Batch, move_batch


@dataclass(frozen=True)
class LoadingOptions:
    """How clips are read.

    Attributes:
        batch_size: clips in a mini-batch.
        held_out: part of the training clips that thresholds and learning rate are set by.
        seed: of the split and the order.
        workers: processes that read audio.
        skip_unreadable: leave out audio files that cannot be read, with a warning.
    """

    batch_size: int = 32
    held_out: float = 0.1
    seed: int = 0
    workers: int = 0
    skip_unreadable: bool = False


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a corpus in memory, for one run or for several."""

    train: FeatureClips
    evaluation: FeatureClips


def cache_features(
    corpus: Corpus, preset: FeaturePreset, workers: int = 0, skip_unreadable: bool = False
) -> CachedFeatures:
    """Compute the features of every clip of a corpus."""
    classes = len(corpus.classes)
    train, evaluation = (
        FeatureClips(segments, classes, preset, workers, description, skip_unreadable)
        for segments, description in (
            (corpus.train, "training features"),
            (corpus.evaluation, "evaluation features"),
        )
    )
    return CachedFeatures(train, evaluation)


class TrainingData(LightningDataModule):
    """Loaders over a corpus, of waveforms or of cached features.

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
        labels = corpus.train.labels
        training, held_out = held_out_split(labels, options.held_out, options.seed)
        if not training or not held_out:
            raise UserError(
                f"{corpus.directory}: expected training clips enough to hold out "
                f"{options.held_out:.0%} of them, found {len(labels)}: add clips"
            )
        train = cache.train if cache else self._clips(corpus.train)
        self.train_clips: Dataset = Subset(train, training)
        self.held_out_clips: Dataset = Subset(train, held_out)
        self.evaluation_clips: Dataset = (
            cache.evaluation if cache else self._clips(corpus.evaluation)
        )
        self.batches = BalancedBatchSampler(
            [labels[index] for index in training], options.batch_size, options.seed
        )

    def train_dataloader(self) -> DataLoader:
        """The current epoch's batches; the trainer asks for each epoch's anew."""
        trainer = self.trainer
        self.batches.set_epoch(trainer.current_epoch)
        share = _Share(self.batches, trainer.global_rank, trainer.world_size)
        return self._loader(self.train_clips, batch_sampler=share)

    def val_dataloader(self) -> DataLoader:
        """The held-out clips, all of them in every process."""
        return self._loader(self.held_out_clips, batch_size=self.options.batch_size)

    def evaluation_dataloader(self) -> DataLoader:
        """The evaluation clips."""
        return self._loader(self.evaluation_clips, batch_size=self.options.batch_size)

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
        chosen = torch.randperm(len(self.train_clips), generator=generator)[:limit].sort().values
        clips = Subset(self.train_clips, chosen.tolist())
        found = False
        for batch in self._loader(clips, batch_size=self.options.batch_size):
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

    def _clips(self, segments: SegmentList) -> ClipDataset:
        return ClipDataset(
            segments,
            len(self.corpus.classes),
            self.preset.sample_rate,
            self.preset.clip_seconds,
            on_error="skip" if self.options.skip_unreadable else "raise",
        )

    def _loader(self, clips: Dataset, **how: object) -> DataLoader[Batch]:
        cached = self.cache is not None
        return DataLoader(
            clips,
            collate_fn=collate_features if cached else collate,
            num_workers=0 if cached else self.options.workers,
            pin_memory=torch.cuda.is_available() and not cached,
            **how,
        )


class _Share(Sampler[list[int]]):
    """The batches of one of several processes, as many for each."""

    def __init__(self, batches: BalancedBatchSampler, rank: int, processes: int) -> None:
        self.batches = batches
        self.rank = rank
        self.processes = processes

    def __len__(self) -> int:
        return max(1, len(self.batches) // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        for index, batch in enumerate(self.batches):
            if index % self.processes == self.rank and index // self.processes < len(self):
                yield batch
