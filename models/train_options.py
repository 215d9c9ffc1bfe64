"""The options of a training run: on the command line, and in a run's config.json."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path

from models import list_model_poolings, list_models
from models.corpus_options import (
    add_eval_lists,
    add_held_out_lists,
    add_ignore_unknown_labels,
)
from models.data.classes import ClassList
from models.data.corpus import CorpusOptions
from models.data.sampling import BALANCING
from models.errors import CommandParser, UserError
from models.features import PRESETS
from models.trainer import PRECISIONS

_PLACES = ("out", "devices", "nodes", "accelerator", "workers", "save_every", "log_every")
_WAYS = ("keep_epochs", "cache_features", "strict", "compile")
"""Options that say where and how a run is computed, and not what comes out."""


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
    factor: float = 0.5
    seed: int = 0
    held_out: float = 0.1
    normalisation_clips: int = 2000
    model_options: dict[str, object] = field(default_factory=dict)
    balancing: str = "round_robin"
    time_shift: float = 0.0
    mixup: float = 0.0
    spec_augment: bool = False
    mean_teacher: tuple[int, int, int] | None = None
    consistency: float = 2.0
    tune_frames: bool = False
    accumulate: int = 1
    ema: float | None = None
    precision: str = "auto"
    devices: str = "auto"
    nodes: int = 1
    accelerator: str = "auto"
    workers: int = 0
    compile: bool = False
    save_every: int = 1000
    log_every: int = 10
    keep_epochs: int = 0
    cache_features: bool = False
    strict: bool = False
    eval_lists: tuple[str, ...] = ()
    held_out_lists: tuple[str, ...] = ()
    ignore_unknown_labels: bool = False

    @property
    def corpus(self) -> CorpusOptions:
        """What of the corpus folder is read."""
        return CorpusOptions(self.eval_lists, self.held_out_lists, self.ignore_unknown_labels)

    def deciding(self, classes: ClassList) -> dict[str, object]:
        """What decides the result, for the run's config.json."""
        return {
            "data": str(self.data.resolve()),
            **{
                name: getattr(self, name)
                for name in _names()
                if name not in ("data", *_PLACES, *_WAYS)
            },
            "classes": list(classes.mids),
        }

    def circumstances(self) -> dict[str, object]:
        """What does not, for the same file."""
        return {name: getattr(self, name) for name in (*_PLACES, *_WAYS) if name != "out"}


def parse_train_options() -> TrainOptions:
    """The options on the command line, over those of `--config` where it is given."""
    parser = _parser()
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    given, _ = config.parse_known_args()
    if given.config is not None:
        _set_defaults(parser, given.config)
    options = vars(parser.parse_args())
    missing = [f"--{name}" for name in ("data", "out") if options[name] is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    del options["config"]
    options["model_options"] = dict(options.pop("model_option"))
    for name in ("eval_lists", "held_out_lists"):
        options[name] = tuple(options[name])
    if options["mean_teacher"] is not None:
        options["mean_teacher"] = tuple(options["mean_teacher"])
        options["batch_size"] = sum(options["mean_teacher"])
        if not sum(options["mean_teacher"][:2]):
            parser.error("--mean-teacher: expected labelled clips in a step, got none")
    return TrainOptions(**options)


def _names() -> list[str]:
    return [entry.name for entry in fields(TrainOptions)]


def _set_defaults(parser: argparse.ArgumentParser, path: Path) -> None:
    """Let a run's config.json stand for options that are not given."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.update(content.pop("circumstances", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--config {path}: expected a run's config.json ({error})") from error
    content.pop("classes", None)
    unknown = sorted(set(content) - set(_names()))
    if unknown:
        raise UserError(
            f"--config {path}: expected the options of models.train, found {', '.join(unknown)}"
        )
    content["model_option"] = list(content.pop("model_options", {}).items())
    for action in parser._actions:
        value = content.get(action.dest)
        if value is None or value == action.default:
            continue
        # Text goes through the option's own checks, as on the command line.
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        action.default = str(value) if plain else value
        if action.choices is not None and action.default not in action.choices:
            expected = ", ".join(action.choices)
            raise UserError(
                f"--config {path}: {action.dest}: expected one of {expected}, got {value}"
            )


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m models.train", description=DESCRIPTION)
    what = parser.add_argument_group("what is learned")
    add = what.add_argument
    add("--data", type=Path, metavar="DIR", help="corpus folder; required")
    add("--out", type=Path, metavar="RUN", help="folder of the run; required")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="a run's config.json: its options, where they are not given here",
    )
    add("--model", choices=list_models(), default="dcase2017_crnn")
    poolings = dict.fromkeys(chain.from_iterable(map(list_model_poolings, list_models())))
    add("--pooling", choices=list(poolings), help="default: the model's own")
    add("--features", choices=list(PRESETS), help="default: the model's own")
    add(
        "--model-option",
        action="append",
        default=[],
        type=_model_option,
        metavar="NAME=VALUE",
        help="an option of the network, the value in JSON: gru_width=48, channels=[8,16,32]",
    )
    add("--epochs", type=_positive, default=20, metavar="N", help="default 20")
    add(
        "--batch-size",
        type=_positive,
        default=32,
        metavar="N",
        help="clips that a step learns from, on all devices together, default 32",
    )
    add(
        "--epoch-batches",
        type=_positive,
        metavar="N",
        help="steps in an epoch; default: as many as the clips fill",
    )
    add("--learning-rate", type=_rate, default=1e-3, metavar="RATE", help="default 0.001")
    add(
        "--patience",
        type=_natural,
        default=3,
        metavar="N",
        help="epochs without a lower held-out loss before the learning rate falls, default 3",
    )
    add(
        "--factor",
        type=_part,
        default=0.5,
        metavar="FACTOR",
        help="what it is multiplied with then, default 0.5",
    )
    add("--seed", type=_natural, default=0, metavar="N", help="default 0")
    add(
        "--held-out",
        type=_part,
        default=0.1,
        metavar="PART",
        help="part of the training clips that thresholds and learning rate are set by, default 0.1",
    )
    add_eval_lists(add)
    add_held_out_lists(add)
    add_ignore_unknown_labels(add)
    add(
        "--normalisation-clips",
        type=_positive,
        default=2000,
        metavar="N",
        help="training clips that mean and variance are taken from, default 2000",
    )
    add(
        "--balancing",
        choices=list(BALANCING),
        default="round_robin",
        help="draw classes in turn, as the clips come but the most frequent class at most 5 times "
        "as often as the rarest (ratio)",
    )
    add(
        "--time-shift",
        type=_rate,
        default=0.0,
        metavar="FRAMES",
        help="turn clips in time: standard deviation in feature frames, 16 in the papers",
    )
    add("--mixup", type=_rate, default=0.0, metavar="ALPHA", help="mix clips, shares of Beta(α, α)")
    add("--spec-augment", action="store_true", help="blank stripes of frames and of bands")
    add(
        "--mean-teacher",
        type=_natural,
        nargs=3,
        metavar=("STRONG", "WEAK", "UNLABELLED"),
        help="learn from so many strongly labelled, weakly labelled and unlabelled clips in a "
        "step, with a mean teacher (DCASE 2019 task 4)",
    )
    add(
        "--consistency",
        type=_rate,
        default=2.0,
        metavar="WEIGHT",
        help="of the mean teacher's agreement with the network, from the middle of the training "
        "on, default 2",
    )
    add(
        "--accumulate",
        type=_positive,
        default=1,
        metavar="N",
        help="compute a step in N pieces, which need less memory, default 1",
    )
    add(
        "--ema",
        type=_part,
        metavar="DECAY",
        help="validate and keep an exponential moving average of the weights: 0.999",
    )
    add(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="default auto: bf16 on GPUs",
    )
    where = parser.add_argument_group("where and how it is computed")
    add = where.add_argument
    add("--devices", default="auto", help="how many on each node, or auto")
    add("--num-nodes", dest="nodes", type=_positive, default=1, metavar="N", help="default 1")
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    add(
        "--workers",
        type=_natural,
        default=0,
        metavar="N",
        help="processes that read audio for each device, default 0",
    )
    add("--compile", action="store_true", help="compile the network")
    add(
        "--save-every",
        type=_positive,
        default=1000,
        metavar="N",
        help="steps between checkpoints within an epoch, default 1000",
    )
    add(
        "--log-every",
        type=_positive,
        default=10,
        metavar="N",
        help="steps between rows of steps.csv, default 10",
    )
    add(
        "--tune-frames",
        action="store_true",
        help="tune thresholds of frames on the events of held-out clips (train_strong.tsv); "
        "without, they are those of clips",
    )
    add(
        "--keep-epochs",
        type=_natural,
        default=0,
        metavar="N",
        help="keep the detectors of the last N epochs, for models.fuse; default 0",
    )
    add("--cache-features", action="store_true", help="compute features once, hold them in memory")
    add(
        "--strict",
        action="store_true",
        help="stop at a clip that cannot be read; default: leave it out and name it in the end",
    )
    return parser


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


DESCRIPTION = """Train a detector on the weak labels of a corpus and measure it on the evaluation
clips. A run that was interrupted, killed, or ended by SIGTERM (exit status 143, after it has saved
its state) goes on where it stopped when the same command is given again. On several devices or
nodes, every step learns from the same clips as on one."""
