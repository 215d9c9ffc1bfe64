"""Detectors of a run's epochs: the last, whose posteriors can be averaged (Xu et al. 2018), and the
best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from models.detector import save_detector
from models.run_folder import RunFolder
from models.system import DetectorTraining

KEPT = ("last", "best")
"""What `--keep` takes: the epoch whose detector a run ends with."""


class KeepEpochs(Callback):
    """Writes the detector after each epoch, as it was validated, and keeps the last `count`; beside
    them, if wanted, the best.

    What is not kept any more goes when the epoch is over, and with it the checkpoint written: a run
    that is killed goes on with files of the epochs that its checkpoint knows.
    """

    def __init__(self, run: RunFolder, count: int, keep: str = "last") -> None:
        self.run = run
        self.count = count
        self.keep = keep

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before averaged weights are taken out of the network again.
        folders = self._folders()
        if not trainer.is_global_zero or not folders:
            return
        detector = cast(DetectorTraining, pl_module).validated()
        for folder in folders:
            folder.mkdir(exist_ok=True)
            save_detector(_file(folder, trainer.current_epoch + 1), detector)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tidy(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tidy(trainer, pl_module)

    def _tidy(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = cast(DetectorTraining, pl_module).history
        if not trainer.is_global_zero or not history:
            return
        epoch, _ = kept_epoch(self.keep, history)
        for path in self.run.best.glob("epoch-*.pt"):
            if path != best_detector(self.run, epoch):
                path.unlink()
        if self.count:
            for path in kept_epochs(self.run)[: -self.count]:
                path.unlink()

    def _folders(self) -> list[Path]:
        wanted = ((self.run.epochs, self.count > 0), (self.run.best, self.keep == "best"))
        return [folder for folder, is_wanted in wanted if is_wanted]


def kept_epochs(run: RunFolder) -> list[Path]:
    """The kept detectors' files, the earliest epoch first; none of a run that keeps none."""
    return sorted(run.epochs.glob("epoch-*.pt"))


def best_detector(run: RunFolder, epoch: int) -> Path:
    """The file of the best epoch's detector, in a run that keeps the best."""
    return _file(run.best, epoch)


def kept_epoch(keep: str, history: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """The epoch whose detector a run ends with, from 1, and what it was chosen by.

    The best epoch is the first of the highest held-out mean average precision; where no held-out
    clip has a label, and all precisions are 0, that of the lowest held-out loss.

    Args:
        keep: one of `KEPT`.
        history: the rows of history.csv.
    """
    if keep == "last":
        return int(history[-1]["epoch"]), "last"
    if any(row["held_out_mAP"] for row in history):
        name, best = "held_out_mAP", max(history, key=lambda row: row["held_out_mAP"])
    else:
        name, best = "held_out_loss", min(history, key=lambda row: row["held_out_loss"])
    return int(best["epoch"]), name


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:04}.pt"
