"""What of a corpus folder is read, as options of several commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from models.data.corpus import CorpusOptions
from models.errors import add_switch


def add_eval_lists(add: Callable[..., Any]) -> None:
    """`--eval-lists`, by the `add_argument` of a parser or of a group."""
    add(
        "--eval-lists",
        nargs="+",
        default=[],
        metavar="LIST",
        help="DESED's lists to evaluate on, as validation/validation for "
        "metadata/validation/validation.tsv; default: validation.tsv, else all real ones",
    )


def add_held_out_lists(add: Callable[..., Any]) -> None:
    """`--held-out-lists`, by the `add_argument` of a parser or of a group."""
    add(
        "--held-out-lists",
        nargs="+",
        default=[],
        metavar="LIST",
        help="DESED's lists whose clips are held out, as "
        "validation/synthetic21_validation/soundscapes; default: a part of the training clips",
    )


def add_ignore_unknown_labels(add: Callable[..., Any]) -> None:
    """`--ignore-unknown-labels`, by the `add_argument` of a parser or of a group."""
    add_switch(
        add,
        "ignore-unknown-labels",
        "leave labels out of AudioSet's and DESED's lists that the class list lacks, and clips "
        "that have no other; default: stop at the first",
    )


def corpus_options(given: argparse.Namespace) -> CorpusOptions:
    """The options that were given, of those that the command has."""
    return CorpusOptions(
        tuple(given.eval_lists),
        tuple(getattr(given, "held_out_lists", ())),
        given.ignore_unknown_labels,
    )
