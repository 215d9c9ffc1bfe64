"""Detectors of a run's last epochs, whose posteriors can be averaged (Xu et al. 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from models.detector import save_detector
from models.run_folder import RunFolder
from models.system import DetectorTraining


class KeepEpochs(Callback):
    """Writes the detector after each epoch and keeps the last `count`."""

    def __init__(self, run: RunFolder, count: int) -> None:
        self.run = run
        self.count = count

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self.count < 1:
            return
        self.run.epochs.mkdir(exist_ok=True)
        epoch = trainer.current_epoch + 1
        detector = cast(DetectorTraining, pl_module).detector
        save_detector(self.run.epochs / f"epoch-{epoch:04}.pt", detector)
        for path in kept_epochs(self.run)[: -self.count]:
            path.unlink()


def kept_epochs(run: RunFolder) -> list[Path]:
    """The kept detectors' files, the earliest epoch first; none of a run that keeps none."""
    return sorted(run.epochs.glob("epoch-*.pt"))
