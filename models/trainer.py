"""Lightning's trainer, set up so that a run stopped at any moment goes on to the same result."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from models.errors import Terminated, UserError
from models.kept_epochs import KeepEpochs
from models.logs import StepLog, tensorboard_logger
from models.run_checkpoints import AtomicCheckpointIO, RunCheckpoints
from models.run_folder import RunFolder
from models.shard_data import ShardData
from models.system import DetectorTraining
from models.training_data import TrainingData

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""What `--precision` takes beside auto, and the trainer's names for it."""

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*`IterableDataset` has `__len__` defined.*",
    ".*LeafSpec.*is deprecated.*",
    ".*max_pool2d_with_indices_backward_cuda.*",
    # The loader does begin where the epoch was left.
    ".*your dataloader is not resumable.*",
    ".*`_get_pg_default_device` will be deprecated.*",
)


@dataclass(frozen=True)
class TrainerOptions:
    """How long, where and how to train.

    Attributes:
        epochs: how many.
        epoch_batches: steps in an epoch; None for as many as the clips fill.
        devices: how many on each node, or "auto".
        accelerator: "cpu", "gpu" or "auto".
        nodes: how many machines.
        precision: one of `PRECISIONS`, or "auto" for bf16 where a GPU has it.
        accumulate: pieces that a process computes its part of a step in.
        ema: decay of the averaged weights; None for none.
        compile: compile the network.
        save_every: steps between checkpoints within an epoch.
        log_every: steps between rows of steps.csv and points of TensorBoard's curves.
        keep_epochs: of how many last epochs the detector is kept.
        keep: one of `models.kept_epochs.KEPT`.
    """

    epochs: int
    epoch_batches: int | None = None
    devices: str = "auto"
    accelerator: str = "auto"
    nodes: int = 1
    precision: str = "auto"
    accumulate: int = 1
    ema: float | None = None
    compile: bool = False
    save_every: int = 1000
    log_every: int = 10
    keep_epochs: int = 0
    keep: str = "last"


def fit(
    system: DetectorTraining,
    data: TrainingData | ShardData,
    options: TrainerOptions,
    run: RunFolder,
) -> Trainer:
    """Train until the last epoch, from the run's checkpoint if it has one.

    Raises:
        UserError: devices that are not there, a checkpoint or clip that cannot be read.
        KeyboardInterrupt: after Ctrl-C, when the trainer has come to rest.
        Terminated: after SIGTERM, when a checkpoint is written.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = _trainer(options, run)
    pieces = trainer.world_size * options.accumulate
    size = next((size for size in data.part_sizes if size % pieces), None)
    if size is not None:
        raise UserError(
            f"--batch-size {size}: expected a multiple of {pieces}, the pieces "
            f"that {trainer.world_size} processes and --accumulate {options.accumulate} cut it into"
        )
    if options.compile:
        # It goes on uncompiled where it looks at a number, and says so at length.
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
        system.detector.network.compile()
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(system, data, ckpt_path=run.checkpoint if run.checkpoint.exists() else None)
    except (SystemExit, Terminated) as error:
        # The trainer has ended in good order after a signal; an interrupted one exits by itself.
        if not trainer.is_global_zero:
            sys.exit(0)
        done, epochs = len(system.history), options.epochs
        print(f"{done} of {epochs} epochs are in {run.path}", file=sys.stderr)
        if isinstance(error, Terminated):
            raise
        raise KeyboardInterrupt from None
    return trainer


def _trainer(options: TrainerOptions, run: RunFolder) -> Trainer:
    limit = None if options.epoch_batches is None else options.epoch_batches * options.accumulate
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=int(options.devices) if options.devices.isdigit() else options.devices,
            num_nodes=options.nodes,
            precision=_precision(options),
            max_epochs=options.epochs,
            limit_train_batches=limit,
            accumulate_grad_batches=options.accumulate,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=options.log_every,
            callbacks=_callbacks(options, run),
            enable_progress_bar=sys.stderr.isatty(),
            plugins=[AtomicCheckpointIO()],
            logger=tensorboard_logger(run),
            enable_model_summary=False,
            # PyTorch counts the backward of max pooling on CUDA as not deterministic, because
            # windows may overlap; where they do not, each value gets one addition.
            deterministic="warn",
        )
        # With determinism comes NaN written to all new memory, which every step would pay for.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    except (MisconfigurationException, ValueError) as error:
        raise UserError(
            f"--devices {options.devices}, --accelerator {options.accelerator}: {error}"
        ) from error
    return trainer


def _callbacks(options: TrainerOptions, run: RunFolder) -> list[Callback]:
    callbacks: list[Callback] = [
        # First: an epoch that the checkpoint calls finished must be there, and as it was validated.
        KeepEpochs(run, options.keep_epochs, options.keep),
        RunCheckpoints(run, options.epochs, options.save_every),
        StepLog(run.steps, options.log_every),
    ]
    if options.ema is not None:
        callbacks.append(_Averaged(decay=options.ema))
    if sys.stderr.isatty():
        callbacks.append(_Bar())
    return callbacks


def _precision(options: TrainerOptions) -> Any:
    if options.precision != "auto":
        return PRECISIONS[options.precision]
    if options.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return PRECISIONS["bf16" if torch.cuda.is_bf16_supported() else "16"]
    return PRECISIONS["32"]


class _Averaged(EMAWeightAveraging):
    """An exponential moving average of the weights: what is validated, and kept in the end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Too early: a run that goes on after its last epoch does not train any more."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)


class _Bar(TQDMProgressBar):
    """Lightning's bar, with epochs counted as in history.csv."""

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items
