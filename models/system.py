"""How a detector is trained: loss, optimiser, plateau decay and what an epoch is judged by."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

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


class DetectorTraining(LightningModule):
    """Trains a detector on weak labels; every epoch ends with the held-out clips.

    Each epoch starts from a random state of its own, so that a run that goes on after an
    interruption draws what it would have drawn without.

    Attributes:
        history: one row per finished epoch, with the columns of `history.csv`.
    """

    def __init__(self, detector: Detector, options: TrainingOptions) -> None:
        super().__init__()
        self.detector = detector
        self.options = options
        self.history: list[dict[str, float]] = []
        self.train_loss = MeanMetric()
        self._held_out: list[tuple[Tensor, Tensor]] = []
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, object] | None = None
        self._epoch_start = 0.0

    def forward(self, batch: Batch) -> DetectorOutput:
        return run_batch(self.detector, batch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor | None:
        if len(batch) == 0:
            return None
        output = self(batch)
        loss = clip_loss(output.clip, batch.target)
        self.train_loss.update(loss.detach(), weight=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss + output.penalty

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        if len(batch):
            self._held_out.append((self(batch).clip.float().cpu(), batch.target.cpu()))

    def on_train_epoch_start(self) -> None:
        self._epoch_start = time.perf_counter()
        state = np.random.SeedSequence(
            [self.options.seed, self.current_epoch, self.global_rank]
        ).generate_state(1)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[0]))
        random.seed(int(state[0]))

    def on_train_epoch_end(self) -> None:
        if not self._held_out:
            raise UserError("none of the held-out clips can be read: replace them")
        clip, target = (torch.cat(parts) for parts in zip(*self._held_out, strict=True))
        self._held_out.clear()
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
                "learning_rate": self.optimizers().param_groups[0]["lr"],
                "seconds": time.perf_counter() - self._epoch_start,
            }
        )
        self.train_loss.reset()
        # Stepped here and not by the trainer, whose own step comes after the epoch's checkpoint.
        self._plateau.step(held_out_loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.options.learning_rate)
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=self.options.factor, patience=self.options.patience
        )
        if self._plateau_state is not None:
            self._plateau.load_state_dict(self._plateau_state)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["history"] = self.history
        checkpoint["plateau"] = self._plateau.state_dict()
        checkpoint["mids"] = list(self.detector.classes.mids)

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        self.history = checkpoint["history"]
        self._plateau_state = checkpoint["plateau"]


def run_batch(detector: Detector, batch: Batch) -> DetectorOutput:
    """Detect in a batch of waveforms or of features."""
    if isinstance(batch, FeatureBatch):
        return detector.detect(batch.features, batch.lengths)
    return detector(batch.waveform, batch.lengths)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, but for its lengths: the packed GRU needs those on the CPU."""
    name = "features" if isinstance(batch, FeatureBatch) else "waveform"
    moved = {key: getattr(batch, key).to(device, non_blocking=True) for key in (name, "target")}
    return replace(batch, **moved)
