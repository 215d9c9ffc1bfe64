"""The options that every training takes, for the programs that train."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

from models.corpus_options import (
    add_eval_lists,
    add_held_out_lists,
    add_ignore_unknown_labels,
)
from models.data.sampling import BALANCING
from models.errors import add_switch
from models.features import PRESETS
from models.kept_epochs import KEPT
from models.trainer import PRECISIONS

Add = Callable[..., Any]
"""`add_argument` of a parser or of a group."""


def add_learning_options(add: Add) -> None:
    """What decides the result besides corpus, network and seed."""
    add("--features", choices=list(PRESETS), help="default: the model's own")
    add("--epochs", type=positive, default=20, metavar="N", help="default 20")
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="clips that a step learns from, on all devices together, default 32 or those of "
        "--mean-teacher",
    )
    add(
        "--epoch-batches",
        type=positive,
        metavar="N",
        help="steps in an epoch; default: as many as the clips fill",
    )
    _add_off(add, "epoch-batches", None)
    add("--learning-rate", type=_rate, default=1e-3, metavar="RATE", help="default 0.001")
    add(
        "--patience",
        type=natural,
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
    add(
        "--held-out",
        type=_part,
        default=0.1,
        metavar="PART",
        help="part of the training clips that thresholds and learning rate are set by, default 0.1",
    )
    add_eval_lists(add)
    _add_off(add, "eval-lists", [])
    add_held_out_lists(add)
    _add_off(add, "held-out-lists", [])
    add_ignore_unknown_labels(add)
    add(
        "--normalisation-clips",
        type=positive,
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
    _add_off(add, "time-shift", 0.0)
    add("--mixup", type=_rate, default=0.0, metavar="ALPHA", help="mix clips, shares of Beta(α, α)")
    _add_off(add, "mixup", 0.0)
    add_switch(add, "spec-augment", "blank stripes of frames and of bands")
    add(
        "--mean-teacher",
        type=natural,
        nargs=3,
        metavar=("STRONG", "WEAK", "UNLABELLED"),
        help="learn from so many strongly labelled, weakly labelled and unlabelled clips in a "
        "step, with a mean teacher (DCASE 2019 task 4)",
    )
    _add_off(add, "mean-teacher", None)
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
        type=positive,
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
    _add_off(add, "ema", None)
    add(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="default auto: bf16 on GPUs",
    )
    add_switch(
        add,
        "tune-frames",
        "tune thresholds of frames on the events of held-out clips (train_strong.tsv); "
        "without, they are those of clips",
    )
    add(
        "--keep",
        choices=KEPT,
        default="last",
        help="the epoch whose detector is the result: the last (default), or the one with the "
        "highest held-out mean average precision",
    )


def add_computing_options(add: Add) -> None:
    """Where and how it is computed."""
    add("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    add(
        "--workers",
        type=natural,
        default=0,
        metavar="N",
        help="processes that read audio for each device, default 0",
    )
    add_switch(add, "compile", "compile the network")
    add(
        "--save-every",
        type=positive,
        default=1000,
        metavar="N",
        help="steps between checkpoints within an epoch, default 1000",
    )
    add(
        "--log-every",
        type=positive,
        default=10,
        metavar="N",
        help="steps between rows of steps.csv, default 10",
    )
    add(
        "--keep-epochs",
        type=natural,
        default=0,
        metavar="N",
        help="keep the detectors of the last N epochs, for models.fuse; default 0",
    )
    add_switch(
        add,
        "strict",
        "stop at a clip that cannot be read; default: leave it out and name it in the end",
    )


def add_cache_option(add: Add, default: bool) -> None:
    """Whether features are held in memory."""
    add_switch(add, "cache-features", "compute features once, hold them in memory", default)


def settle(parser: argparse.ArgumentParser, given: dict[str, Any]) -> None:
    """Fill in the clips of a step, in place, and complain where options contradict each other."""
    for name in ("eval_lists", "held_out_lists"):
        given[name] = tuple(given[name])
    parts = given["mean_teacher"]
    if parts is None:
        given["batch_size"] = given["batch_size"] or 32
        return
    given["mean_teacher"] = tuple(parts)
    size = sum(parts)
    if not sum(parts[:2]):
        parser.error("--mean-teacher: expected labelled clips in a step, got none")
    if given["batch_size"] not in (None, size):
        parser.error(
            f"--batch-size {given['batch_size']}: expected {size}, the clips of --mean-teacher "
            f"{' '.join(map(str, parts))}, or none"
        )
    given["batch_size"] = size


def named_value(text: str) -> tuple[str, object]:
    """NAME=VALUE, the value in JSON."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a value in JSON, got {value}") from error


def _add_off(add: Add, name: str, value: object) -> None:
    """`--no-NAME`, for what a config.json brings along."""
    add(
        f"--no-{name}",
        dest=name.replace("-", "_"),
        action="store_const",
        const=value,
        default=value,
        help=argparse.SUPPRESS,
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number from 0."""
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
