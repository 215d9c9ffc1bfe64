"""What a run writes about its steps while it goes: steps.csv and TensorBoard's curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from models.checkpoint import write_text
from models.run_folder import RunFolder
from models.system import Batch

_COLUMNS = "step,epoch,loss,learning_rate"


def tensorboard_logger(run: RunFolder) -> TensorBoardLogger:
    """Curves of the training and held-out loss, in the run's folder."""
    return TensorBoardLogger(run.path, name="tensorboard", version="")


class StepLog(Callback):
    """One row of `path` every so many steps: the loss of the step's last piece in process 0.

    A run that goes on from a checkpoint drops the rows of the steps that it repeats.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._rows: list[tuple[int, int, torch.Tensor, float]] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if trainer.is_global_zero:
            lines = self.path.read_text().splitlines()[1:] if self.path.exists() else []
            kept = [line for line in lines if int(line.partition(",")[0]) <= self._step]
            write_text(self.path, "".join(f"{line}\n" for line in (_COLUMNS, *kept)))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._step or step % self.every or not trainer.is_global_zero:
            return
        self._step = step
        # As it is on the device: reading it here would wait for the step to end.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._rows.append((step, trainer.current_epoch + 1, loss, rate))
        if len(self._rows) >= 100:
            self._flush()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()

    def on_save_checkpoint(self, trainer: Trainer, *rest: object) -> None:
        # The run goes on after this step: the rows before it would not come again.
        self._flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._rows:
            with self.path.open("a", encoding="utf-8") as file:
                for step, epoch, loss, rate in self._rows:
                    file.write(f"{step},{epoch},{loss.item():.9g},{rate:g}\n")
            self._rows.clear()
