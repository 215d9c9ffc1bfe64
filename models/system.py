"""How a detector is trained: loss, optimiser, plateau decay and what an epoch is judged by."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from models.augmentation import AugmentationOptions, Examples
from models.data.clips import ClipBatch
from models.detector import Detector
from models.errors import UserError
from models.feature_cache import FeatureBatch
from models.losses import clip_loss
from models.metrics import tagging_metrics
from models.output import DetectorOutput

Batch = ClipBatch | FeatureBatch


@dataclass(frozen=True)
class TrainingOptions:
    """Optimisation: Adam, and the learning rate times `factor` when `patience` epochs in a row
    have not lowered the held-out loss."""

    learning_rate: float = 1e-3
    factor: float = 0.5
    patience: int = 3
    seed: int = 0
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)


_Item = TypeVar("_Item")


class DetectorTraining(LightningModule):
    """Trains a detector on weak labels; every epoch ends with the held-out clips.

    Each batch starts from a random state of its own, so that a run that goes on after an
    interruption, in mid-epoch too, draws what it would have drawn without.

    Attributes:
        history: one row per finished epoch, with the columns of `history.csv`.
    """

    def __init__(self, detector: Detector, options: TrainingOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options
        self.augment = options.augmentation.build(detector.network.frame_reduction)
        self.history: list[dict[str, float]] = []
        self.train_loss = MeanMetric()
        self._held_out: list[tuple[Tensor, ...]] = []
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, object] | None = None
        self._epoch_start = 0.0
        self._elapsed = 0.0

    def forward(self, batch: Batch) -> DetectorOutput:
        return run_batch(self.detector, batch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        if len(batch) == 0:
            # Not None: in other processes this step has gradients, which are averaged.
            return torch.stack([parameter.sum() * 0 for parameter in self.parameters()]).sum()
        loss, output = self.batch_loss(batch)
        self.train_loss.update(loss.detach(), weight=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        # Each clip counts the same, in whichever process and piece of a step it is.
        kept = len(batch) / (len(batch) + len(batch.unreadable))
        return loss * kept + output.penalty

    def batch_loss(self, batch: Batch) -> tuple[Tensor, DetectorOutput]:
        """The loss of a batch, without what the network adds, and what the network said."""
        examples = self.augment(examples_of(self.detector, batch))
        output = self.detector.network(examples.features, examples.lengths)
        return output.clip_loss(examples.target), output

    def finish(self) -> Detector:
        """The trained detector."""
        return self.detector

    def validated(self) -> Detector:
        """The detector that an epoch is judged by."""
        return self.detector

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        if len(batch):
            self._held_out.append((self(batch).clip.float().cpu(), batch.target.cpu()))

    def on_train_start(self) -> None:
        self._epoch_start = time.perf_counter() - self._elapsed

    def on_train_epoch_start(self) -> None:
        self._epoch_start = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        place = [self.options.seed, self.current_epoch, batch_index, self.global_rank]
        (seed,) = np.random.SeedSequence(place).generate_state(1).tolist()
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    def on_train_epoch_end(self) -> None:
        held_out = gather(self._held_out)
        self._held_out.clear()
        if not held_out:
            raise UserError("none of the held-out clips can be read: replace them")
        clip, target = (torch.cat(parts) for parts in zip(*held_out, strict=True))
        held_out_loss = clip_loss(clip, target).item()
        if not math.isfinite(held_out_loss):
            raise UserError(
                f"the loss of epoch {len(self.history) + 1} is not finite: choose a lower "
                "--learning-rate and another --out"
            )
        thresholds = np.full(target.shape[1], 0.5)
        scores = tagging_metrics(clip.numpy(), target.numpy(), thresholds)
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "train_loss": self.train_loss.compute().item(),
                "held_out_loss": held_out_loss,
                "held_out_mAP": scores["mAP"] or 0.0,
                "learning_rate": cast(LightningOptimizer, self.optimizers()).param_groups[0]["lr"],
                "seconds": time.perf_counter() - self._epoch_start,
            }
        )
        names = ("train_loss", "held_out_loss", "held_out_mAP", "learning_rate")
        self.log_dict({name: self.history[-1][name] for name in names})
        self.train_loss.reset()
        # Stepped here and not by the trainer, whose own step comes after the epoch's checkpoint.
        cast(ReduceLROnPlateau, self._plateau).step(held_out_loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.detector.parameters(), lr=self.options.learning_rate)
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=self.options.factor, patience=self.options.patience
        )
        if self._plateau_state is not None:
            self._plateau.load_state_dict(self._plateau_state)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["plateau"] = cast(ReduceLROnPlateau, self._plateau).state_dict()
        checkpoint["epoch_seconds"] = time.perf_counter() - self._epoch_start
        with self.train_loss.sync_context():
            checkpoint["train_loss"] = {
                name: getattr(self.train_loss, name).clone() for name in ("mean_value", "weight")
            }
        checkpoint["mids"] = list(self.detector.classes.mids)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        self._plateau_state = checkpoint["plateau"]
        self._elapsed = checkpoint["epoch_seconds"]
        if self.global_rank == 0:
            # The sum over all processes, which are added up again.
            for name, value in checkpoint["train_loss"].items():
                setattr(self.train_loss, name, value.to(self.device))


def run_batch(detector: Detector, batch: Batch) -> DetectorOutput:
    """Detect in a batch of waveforms or of features."""
    examples = examples_of(detector, batch)
    return detector.network(examples.features, examples.lengths)


def examples_of(detector: Detector, batch: Batch) -> Examples:
    """A batch of waveforms or of features as what a detector's network learns from."""
    front_end = detector.front_end
    if isinstance(batch, FeatureBatch):
        features = front_end.normalise(batch.features, batch.lengths)
        return Examples(features, batch.lengths, batch.target)
    features, lengths = front_end(batch.waveform, batch.lengths)
    return Examples(features, lengths, batch.target)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, but for its lengths: the packed GRU needs those on the CPU."""
    name = "features" if isinstance(batch, FeatureBatch) else "waveform"
    moved = {key: getattr(batch, key).to(device, non_blocking=True) for key in (name, "target")}
    return replace(batch, **moved)


def gather(items: list[_Item]) -> list[_Item]:
    """The items of every process, in the order of their ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(items)
    parts: list[list[_Item]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
