"""Train a detector: `python -m models.train --data DIR --model dcase2017_crnn --out RUN`."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from lightning.pytorch import seed_everything
from tqdm import tqdm

from models import list_model_poolings, list_models
from models.checkpoint import write_text
from models.data.audioset import Corpus, open_corpus
from models.detector import Detector, DetectorSpec, save_detector
from models.errors import CommandParser, UserError, run_command
from models.evaluate import evaluate, fit_thresholds
from models.features import PRESETS
from models.run_folder import RunFolder, write_history
from models.system import DetectorTraining, TrainingOptions
from models.trainer import TrainerOptions, fit
from models.training_data import CachedFeatures, LoadingOptions, TrainingData, cache_features

MEASURES = (
    *("mAP", "mAUC", "d_prime", "clip_f1", "clip_f1_macro"),
    *("segment_f1", "segment_er", "event_f1", "psds_1", "psds_2"),
)
"""Keys of metrics.json that compare systems."""


@dataclass(frozen=True)
class TrainOptions:
    """A training run; `models.train --help` describes each option."""

    data: Path
    out: Path
    model: str = "dcase2017_crnn"
    pooling: str | None = None
    features: str | None = None
    epochs: int = 20
    batch_size: int = 32
    epoch_batches: int | None = None
    learning_rate: float = 1e-3
    patience: int = 3
    seed: int = 0
    held_out: float = 0.1
    normalisation_clips: int = 2000
    model_options: dict[str, object] = field(default_factory=dict)
    devices: str = "auto"
    accelerator: str = "auto"
    workers: int = 0
    keep_epochs: int = 0
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
            "patience": self.patience,
            "seed": self.seed,
            "held_out": self.held_out,
            "normalisation_clips": self.normalisation_clips,
            "model_options": self.model_options,
            "classes": list(corpus.classes.mids),
        }


def main() -> None:
    """Read the command line, train and say what came out."""
    options = parse()
    run = RunFolder(options.out)
    finished = run.is_finished()
    try:
        metrics = train(options)
    except UserError as error:
        # A process that reads audio puts its traceback before the message.
        message = str(error).strip().splitlines()[-1]
        raise UserError(message.removeprefix("models.errors.UserError: ")) from error
    if finished:
        print(f"{options.out}: this run is finished already")
    if metrics:
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
    seed_everything(options.seed, verbose=False)
    spec = DetectorSpec(options.model, options.pooling, options.features, options.model_options)
    detector = _build(spec, corpus)
    options = replace(options, pooling=detector.spec.pooling, features=detector.spec.features)
    run = RunFolder(options.out)
    run.claim(options.deciding(corpus))
    if run.is_finished():
        return run.read_metrics()
    if cache is None and options.cache_features:
        cache = cache_features(corpus, detector.preset, options.workers, options.skip_unreadable)
    data = TrainingData(
        corpus,
        detector.preset,
        LoadingOptions(
            options.batch_size,
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
        detector,
        TrainingOptions(
            learning_rate=options.learning_rate, patience=options.patience, seed=options.seed
        ),
    )
    trainer = fit(
        system,
        data,
        TrainerOptions(
            options.epochs,
            options.epoch_batches,
            options.devices,
            options.accelerator,
            options.keep_epochs,
        ),
        run,
    )
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
        raise UserError(
            f"the network cannot be built ({error}): correct --pooling or --model-option"
        ) from error


def parse() -> TrainOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.train", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="corpus folder")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    add("--model", choices=list_models(), default="dcase2017_crnn")
    poolings = dict.fromkeys(chain.from_iterable(map(list_model_poolings, list_models())))
    add("--pooling", choices=list(poolings), help="default: the model's own")
    add("--features", choices=list(PRESETS), help="default: the model's own")
    add("--epochs", type=_positive, default=20, metavar="N", help="default 20")
    add("--batch-size", type=_positive, default=32, metavar="N", help="clips, default 32")
    add(
        "--epoch-batches",
        type=_positive,
        metavar="N",
        help="mini-batches in an epoch; default: as many as the clips fill",
    )
    add("--learning-rate", type=_rate, default=1e-3, metavar="RATE", help="default 0.001")
    add(
        "--patience",
        type=_natural,
        default=3,
        metavar="N",
        help="epochs without a lower held-out loss before the learning rate halves, default 3",
    )
    add("--seed", type=_natural, default=0, metavar="N", help="default 0")
    add(
        "--held-out",
        type=_part,
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
    add(
        "--keep-epochs",
        type=_natural,
        default=0,
        metavar="N",
        help="keep the detectors of the last N epochs, for models.fuse; default 0",
    )
    add("--devices", default="auto", help="how many, or auto")
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    add(
        "--workers",
        type=_natural,
        default=0,
        metavar="N",
        help="processes that read audio, default 0",
    )
    add("--cache-features", action="store_true", help="compute features once, hold them in memory")
    add("--skip-unreadable", action="store_true", help="leave out files that cannot be read")
    given = vars(parser.parse_args())
    given["model_options"] = dict(given.pop("model_option"))
    return TrainOptions(**given)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _natural(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text}")
    return int(text)


def _rate(text: str) -> float:
    return _between(text, math.inf)


def _part(text: str) -> float:
    return _between(text, 1.0)


def _between(text: str, limit: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < limit:
        upper = "" if math.isinf(limit) else f" and below {limit:g}"
        raise argparse.ArgumentTypeError(f"expected a number above 0{upper}, got {text}")
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
