"""The options of a training run: on the command line, and in a run's config.json."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from models import list_model_poolings, list_models
from models.data.classes import ClassList
from models.data.corpus import CorpusOptions
from models.errors import CommandParser, UserError
from models.train_arguments import (
    add_cache_option,
    add_computing_options,
    add_learning_options,
    named_value,
    natural,
    positive,
    settle,
)

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
    keep: str = "last"
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
    # What is None here is not on the command line.
    given = argparse.Namespace(**{action.dest: None for action in parser._actions})
    parser.parse_args(namespace=given)
    if given.config is not None:
        _set_defaults(parser, given.config, given)
    options = vars(parser.parse_args())
    missing = [f"--{name}" for name in ("data", "out") if options[name] is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    del options["config"]
    options["model_options"] = dict(options.pop("model_option"))
    settle(parser, options)
    return TrainOptions(**options)


def _names() -> list[str]:
    return [entry.name for entry in fields(TrainOptions)]


def _set_defaults(parser: argparse.ArgumentParser, path: Path, given: argparse.Namespace) -> None:
    """Let a run's config.json stand for options that are not given."""
    content = _read_config(path)
    _leave_out(path, content, given)
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


def _read_config(path: Path) -> dict[str, Any]:
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
    parts = content.get("mean_teacher")
    whole = isinstance(parts, list) and all(type(part) is int and part >= 0 for part in parts)
    if parts is not None and not (whole and len(parts) == 3):
        raise UserError(f"--config {path}: mean_teacher: expected three whole numbers, got {parts}")
    return content


def _leave_out(path: Path, content: dict[str, Any], given: argparse.Namespace) -> None:
    """Take from a run's options what follows from those that the command line overrules."""
    model = content.get("model", TrainOptions.model)
    if given.model not in (None, model):
        dropped = [
            name.replace("_", " ")
            for name in ("pooling", "features", "model_options")
            if content.pop(name, None)
        ]
        if dropped:
            print(
                f"--config {path}: {', '.join(dropped)} of {model} are left out for {given.model}",
                file=sys.stderr,
            )
    parts = content.get("mean_teacher")
    if given.mean_teacher is not None or (parts and content.get("batch_size") == sum(parts)):
        content.pop("batch_size", None)


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
        help="a run's config.json: its options, where they are not given here; another --model "
        "takes none of its pooling, features and model options; --no-NAME switches one off",
    )
    add("--model", choices=list_models(), default="dcase2017_crnn")
    poolings = dict.fromkeys(chain.from_iterable(map(list_model_poolings, list_models())))
    add("--pooling", choices=list(poolings), help="default: the model's own")
    add(
        "--model-option",
        action="append",
        default=[],
        type=named_value,
        metavar="NAME=VALUE",
        help="an option of the network, the value in JSON: gru_width=48, channels=[8,16,32]",
    )
    add("--seed", type=natural, default=0, metavar="N", help="default 0")
    add_learning_options(add)
    where = parser.add_argument_group("where and how it is computed")
    add = where.add_argument
    add("--devices", default="auto", help="how many on each node, or auto")
    add("--num-nodes", dest="nodes", type=positive, default=1, metavar="N", help="default 1")
    add_computing_options(add)
    add(
        "--keep-epochs",
        type=natural,
        default=0,
        metavar="N",
        help="keep the detectors of the last N epochs, for models.fuse; default 0",
    )
    add_cache_option(add, default=False)
    return parser


DESCRIPTION = """Train a detector on the weak labels of a corpus and measure it on the evaluation
clips. A run that was interrupted, killed, or ended by SIGTERM (exit status 143, after it has saved
its state) goes on where it stopped when the same command is given again. On several devices or
nodes, every step learns from the same clips as on one."""
