"""Lightning's trainer, set up so that a run killed at any moment goes on to the same result."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from models.checkpoint import save_atomically
from models.errors import UserError
from models.kept_epochs import KeepEpochs
from models.run_folder import RunFolder, write_history
from models.system import DetectorTraining
from models.training_data import TrainingData

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*LeafSpec.*is deprecated.*",
    ".*max_pool2d_with_indices_backward_cuda.*",
)


@dataclass(frozen=True)
class TrainerOptions:
    """How long and where to train.

    Attributes:
        epochs: how many.
        epoch_batches: mini-batches in an epoch; None for as many as the clips fill.
        devices: how many, or "auto".
        accelerator: "cpu", "gpu" or "auto".
        keep_epochs: of how many last epochs the detector is kept.
    """

    epochs: int
    epoch_batches: int | None = None
    devices: str = "auto"
    accelerator: str = "auto"
    keep_epochs: int = 0


def fit(
    system: DetectorTraining, data: TrainingData, options: TrainerOptions, run: RunFolder
) -> Trainer:
    """Train until the last epoch, from the run's checkpoint if it has one.

    Raises:
        UserError: devices that are not there, a checkpoint or clip that cannot be read.
        KeyboardInterrupt: after Ctrl-C, when the trainer has come to rest.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=int(options.devices) if options.devices.isdigit() else options.devices,
            precision=_precision(options.accelerator),
            max_epochs=options.epochs,
            limit_train_batches=options.epoch_batches,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            callbacks=[
                # Before the checkpoint: what it says is finished must be there.
                KeepEpochs(run, options.keep_epochs),
                _EpochEnd(run, options.epochs),
                *([_Bar()] if sys.stderr.isatty() else []),
            ],
            enable_progress_bar=sys.stderr.isatty(),
            plugins=[_AtomicCheckpointIO()],
            logger=False,
            enable_model_summary=False,
            # PyTorch counts the backward of max pooling on CUDA as not deterministic, because
            # windows may overlap; where they do not, each value gets one addition.
            deterministic="warn",
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(
            f"--devices {options.devices}, --accelerator {options.accelerator}: {error}"
        ) from error
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(system, data, ckpt_path=run.checkpoint if run.checkpoint.exists() else None)
    except SystemExit:
        # The trainer has ended in good order after Ctrl-C and left in its own way.
        print(
            f"{len(system.history)} of {options.epochs} epochs are in {run.path}",
            file=sys.stderr,
        )
        raise KeyboardInterrupt from None
    return trainer


def _precision(accelerator: str) -> str:
    if accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "32-true"


class _EpochEnd(Checkpoint):
    """After each epoch: checkpoint, history.csv and one line on stderr."""

    def __init__(self, run: RunFolder, epochs: int) -> None:
        self.run = run
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DetectorTraining) -> None:
        trainer.save_checkpoint(self.run.checkpoint)
        if not trainer.is_global_zero:
            return
        write_history(self.run.history, pl_module.history)
        row = pl_module.history[-1]
        tqdm.write(
            f"epoch {row['epoch']}/{self.epochs}  training loss {row['train_loss']:.4f}  "
            f"held-out loss {row['held_out_loss']:.4f}  held-out mAP {row['held_out_mAP']:.3f}  "
            f"{row['seconds']:.1f} s",
            file=sys.stderr,
        )


class _AtomicCheckpointIO(TorchCheckpointIO):
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
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{path}: expected a checkpoint, but it cannot be read: delete it to start the run "
                "again"
            ) from error


class _Bar(TQDMProgressBar):
    """Lightning's bar, with epochs counted as in history.csv."""

    def on_train_epoch_start(self, trainer: Trainer, *rest: object) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )

    def get_metrics(self, *rest: object) -> dict[str, object]:
        items = super().get_metrics(*rest)
        items.pop("v_num", None)
        return items
