"""When a run's state is written, and what happens at SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from models.checkpoint import load_saved, save_atomically
from models.errors import Terminated, UserError
from models.run_folder import RunFolder, write_history
from models.system import DetectorTraining

_PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"}
"""What the trainer needs of a checkpoint."""


class RunCheckpoints(Checkpoint):
    """Writes the checkpoint after each epoch, every so many steps, and at SIGTERM.

    At SIGTERM, in any of a run's processes, all of them finish their step, write the checkpoint and
    raise `Terminated`. Between an epoch's last step and its end, the held-out clips come first.

    Args:
        run: the run's folder.
        epochs: of the whole run.
        every: steps between checkpoints within an epoch.
    """

    def __init__(self, run: RunFolder, epochs: int, every: int) -> None:
        self.run = run
        self.epochs = epochs
        self.every = every
        self._signalled = False
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After the trainer has set its own, which it takes back, and what was before, at the end.
        signal.signal(signal.SIGTERM, self._note)
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *rest: object) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        between_steps = progress.current.ready % trainer.accumulate_grad_batches == 0
        if progress.is_last_batch or not between_steps:
            return
        stop = self._stops(trainer)
        if stop or trainer.global_step - self._saved_step >= self.every:
            trainer.save_checkpoint(self.run.checkpoint)
            self._saved_step = trainer.global_step
        if stop:
            raise Terminated

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.run.checkpoint)
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            write_history(self.run.history, cast(DetectorTraining, pl_module).history)
            row = cast(DetectorTraining, pl_module).history[-1]
            tqdm.write(
                f"epoch {row['epoch']}/{self.epochs}  training loss {row['train_loss']:.4f}  "
                f"held-out loss {row['held_out_loss']:.4f}  "
                f"held-out mAP {row['held_out_mAP']:.3f}  {row['seconds']:.1f} s",
                file=sys.stderr,
            )
        if self._stops(trainer):
            raise Terminated

    def _note(self, number: int, frame: object) -> None:
        self._signalled = True

    def _stops(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signalled, all=False)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, whole or not at all; reading them runs no code from the file."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: object = None,
        weights_only: bool | None = True,
    ) -> dict[str, object]:
        try:
            content = load_saved(Path(path))
            if not isinstance(content, dict) or _PARTS - content.keys():
                raise ValueError("parts of it are missing")
        except ValueError as error:
            raise UserError(
                f"{path}: expected a checkpoint, but it cannot be read: delete it to start the run "
                "again"
            ) from error
        return content
