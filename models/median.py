"""Median filters in proportion to event length, as an option of several commands.

Lin et al., "Guided learning convolution system for DCASE 2019 Task 4", 2019: a window of a third of
the class's mean event; Liu et al. 2021 do the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.data.classes import ClassList
from models.data.corpus import read_events
from models.detection import mean_event_seconds
from models.errors import CommandParser


def add_median_options(parser: CommandParser) -> None:
    """`--median`, `--median-share` and `--event-lengths`."""
    add = parser.add_argument
    add(
        "--median",
        type=float,
        default=0.0,
        metavar="S",
        help="width of a median filter over frame decisions, default none",
    )
    add(
        "--median-share",
        type=float,
        metavar="PART",
        help="width as a part of the class's mean event length, 0.333 for instance; needs "
        "--event-lengths",
    )
    add(
        "--event-lengths",
        type=Path,
        metavar="PATH",
        help="strong labels that mean event lengths are taken from, AudioSet's list or DESED's, or "
        "a corpus folder for those of its training clips: not those that the result is measured by",
    )


def check_median_options(parser: CommandParser, given: argparse.Namespace) -> None:
    """Complain of what cannot be used."""
    if not 0 <= given.median < float("inf"):
        parser.error(f"--median: expected seconds, 0 or more, got {given.median:g}")
    share = given.median_share
    if share is not None and not 0 < share <= 2:
        parser.error(f"--median-share: expected a number above 0, at most 2, got {share:g}")
    if (share is None) != (given.event_lengths is None):
        parser.error("--median-share, --event-lengths: expected both or neither")
    if share is not None and given.median:
        parser.error("--median, --median-share: expected one of them")


def median_widths(
    median: float, share: float | None, event_lengths: Path | None, classes: ClassList
) -> float | Sequence[float]:
    """Seconds, one for all classes or (classes,).

    Raises:
        UserError: for strong labels that cannot be read or hold no event of the classes.
    """
    if share is None or event_lengths is None:
        return median
    events = read_events(event_lengths, classes)
    return (share * mean_event_seconds(events, len(classes))).tolist()
