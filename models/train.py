"""Train a detector: `python -m models.train --data DIR --model dcase2017_crnn --out RUN`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from tqdm import tqdm

from milkernels.nn import list_poolings
from models import list_models
from models.checkpoint import AtomicCheckpointIO, write_text
from models.data.audioset import Corpus, open_corpus
from models.detector import Detector, DetectorSpec, save_detector
from models.errors import CommandParser, UserError, run_command
from models.evaluate import evaluate, fit_thresholds
from models.features import PRESETS
from models.run_folder import RunFolder
from models.system import DetectorTraining, TrainingOptions
from models.training_data import CachedFeatures, LoadingOptions, TrainingData, cache_features

MEASURES = ("mAP", "mAUC", "d_prime", "clip_f1", "segment_f1", "segment_er", "event_f1")
"""Keys of metrics.json that compare systems."""


@dataclass(frozen=True)
class TrainOptions:
    """A training run; `models.train --help` describes each option."""

    data: Path
    out: Path
    model: str = "dcase2017_crnn"
    pooling: str = "linear_softmax"
    features: str = "dcase2017"
    epochs: int = 20
    batch_size: int = 32
    epoch_batches: int | None = None
    learning_rate: float = 1e-3
    seed: int = 0
    held_out: float = 0.1
    normalisation_clips: int = 2000
    model_options: dict[str, object] = field(default_factory=dict)
    devices: str = "auto"
    accelerator: str = "auto"
    workers: int = 0
    cache_features: bool = False
    skip_unreadable: bool = False

    def deciding(self, corpus: Corpus) -> dict[str, object]:
        """What decides the result, for the run's config.json."""
        return {
            "data": str(self.data.resolve()),
            "model": self.model,
            "pooling": self.pooling,
            "features": self.features,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "epoch_batches": self.epoch_batches,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "held_out": self.held_out,
            "normalisation_clips": self.normalisation_clips,
            "model_options": self.model_options,
            "skip_unreadable": self.skip_unreadable,
            "classes": list(corpus.classes.mids),
        }


def main() -> None:
    """Read the command line, train and say what came out."""
    options = parse()
    run = RunFolder(options.out)
    finished = run.is_finished()
    metrics = train(options)
    if finished:
        print(f"{options.out}: this run is finished already")
    print("  ".join(f"{name} {_shown(metrics[name])}" for name in MEASURES))


def train(
    options: TrainOptions, corpus: Corpus | None = None, cache: CachedFeatures | None = None
) -> dict[str, object]:
    """Train, evaluate and write a run folder, going on where an earlier run of it stopped.

    Args:
        options: the run.
        corpus: `options.data`, where it is open already.
        cache: the corpus's features, where they are in memory already.

    Returns:
        The contents of metrics.json.

    Raises:
        UserError: for what the user can put right.
    """
    corpus = corpus or open_corpus(options.data)
    run = RunFolder(options.out)
    run.claim(options.deciding(corpus))
    if run.is_finished():
        return run.read_metrics()
    seed_everything(options.seed, verbose=False)
    spec = DetectorSpec(options.model, options.pooling, options.features, options.model_options)
    detector = _build(spec, corpus)
    if cache is None and options.cache_features:
        cache = cache_features(corpus, detector.preset, options.workers)
    data = TrainingData(
        corpus,
        detector.preset,
        LoadingOptions(
            options.batch_size,
            options.epoch_batches,
            options.held_out,
            options.seed,
            options.workers,
            options.skip_unreadable,
        ),
        cache,
    )
    if not run.checkpoint.exists():
        batches = data.normalisation_batches(detector.front_end, options.normalisation_clips)
        detector.front_end.fit_normalisation(
            tqdm(batches, "normalisation", unit="batch", disable=None, leave=False)
        )
    system = DetectorTraining(
        detector, TrainingOptions(learning_rate=options.learning_rate, seed=options.seed)
    )
    trainer = _fit(system, data, options, run)
    if not trainer.is_global_zero:
        return {}
    detector.to(trainer.strategy.root_device)
    fit_thresholds(detector, data.val_dataloader())
    metrics = {
        "model": options.model,
        "pooling": options.pooling,
        "epochs": options.epochs,
        **evaluate(detector, data.evaluation_dataloader(), corpus.strong),
    }
    write_history(run.history, system.history)
    save_detector(run.model, detector)
    write_text(run.metrics, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _build(spec: DetectorSpec, corpus: Corpus) -> Detector:
    try:
        return Detector(spec, corpus.classes)
    except (TypeError, ValueError) as error:
        raise UserError(f"the network cannot be built: {error}") from error


def _fit(
    system: DetectorTraining, data: TrainingData, options: TrainOptions, run: RunFolder
) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
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
            _EpochEnd(run, options.epochs),
            *([_Bar()] if sys.stderr.isatty() else []),
        ],
        enable_progress_bar=sys.stderr.isatty(),
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_model_summary=False,
        # PyTorch counts the backward of max pooling on CUDA as not deterministic, because windows
        # may overlap; where they do not, each value gets one addition.
        deterministic="warn",
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*max_pool2d_with_indices_backward_cuda.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
            trainer.fit(system, data, ckpt_path=run.checkpoint if run.checkpoint.exists() else None)
    except SystemExit:
        # The trainer has ended in good order after Ctrl-C and left in its own way.
        raise UserError(
            f"interrupted: {len(system.history)} of {options.epochs} epochs are in {options.out}; "
            "run the same command again to go on"
        ) from None
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


class _Bar(TQDMProgressBar):
    """Lightning's bar, without the version number."""

    def get_metrics(self, *args: object, **kwargs: object) -> dict[str, object]:
        items = super().get_metrics(*args, **kwargs)
        items.pop("v_num", None)
        return items


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one row per epoch as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read what `write_history` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def parse() -> TrainOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.train", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="corpus folder")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    add("--model", choices=list_models(), default="dcase2017_crnn")
    add("--pooling", choices=list_poolings(), default="linear_softmax")
    add("--features", choices=list(PRESETS), default="dcase2017")
    add("--epochs", type=_positive, default=20, metavar="N", help="default 20")
    add("--batch-size", type=_positive, default=32, metavar="N", help="clips, default 32")
    add(
        "--epoch-batches",
        type=_positive,
        metavar="N",
        help="mini-batches in an epoch; default: as many as the clips fill",
    )
    add("--learning-rate", type=float, default=1e-3, metavar="RATE", help="default 0.001")
    add("--seed", type=int, default=0, metavar="N", help="default 0")
    add(
        "--held-out",
        type=float,
        default=0.1,
        metavar="PART",
        help="part of the training clips that thresholds and learning rate are set by, default 0.1",
    )
    add(
        "--normalisation-clips",
        type=_positive,
        default=2000,
        metavar="N",
        help="training clips that mean and variance are taken from, default 2000",
    )
    add(
        "--model-option",
        action="append",
        default=[],
        type=_model_option,
        metavar="NAME=VALUE",
        help="an option of the network, the value in JSON: gru_width=48, channels=[8,16,32]",
    )
    add("--devices", default="auto", help="how many, or auto")
    add("--accelerator", default="auto", help="cpu, gpu or auto")
    add("--workers", type=int, default=0, metavar="N", help="processes that read audio, default 0")
    add("--cache-features", action="store_true", help="compute features once, hold them in memory")
    add("--skip-unreadable", action="store_true", help="leave out files that cannot be read")
    given = vars(parser.parse_args())
    given["model_options"] = dict(given.pop("model_option"))
    return TrainOptions(**given)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _model_option(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a value in JSON, got {value}") from error


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.3f}"


DESCRIPTION = """Train a detector on the weak labels of a corpus and measure it on the evaluation
clips. An interrupted run goes on where it stopped when the same command is given again."""


if __name__ == "__main__":
    run_command(main)
