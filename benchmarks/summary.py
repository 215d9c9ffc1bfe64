"""Ratios between implementations, and the table of their geometric means.

`python -m benchmarks.summary CSV` prints the README's table of the weighted averages.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks import results
from benchmarks.cases import LAYOUTS, MODES, SHAPES
from benchmarks.operations import CORE
from benchmarks.results import Row

_SETTING = tuple(name for name in results.KEY if name != "implementation")


@dataclass(frozen=True)
class Comparison:
    """One setting: the kernel's row, and the medians of all that were timed, by implementation."""

    row: Row
    medians: dict[str, float]

    def ratio(self, slower: str, faster: str = "milkernels") -> float | None:
        """How many times as long `slower` takes; None where one was not timed."""
        if slower not in self.medians or faster not in self.medians:
            return None
        return self.medians[slower] / self.medians[faster]


def comparisons(rows: Iterable[Row]) -> list[Comparison]:
    """The settings in which the kernel was timed."""
    grouped: dict[results.Key, list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == results.TIMED:
            grouped[tuple(row[name] for name in _SETTING)].append(row)
    found = []
    for group in grouped.values():
        medians = {row["implementation"]: float(row["median_seconds"]) for row in group}
        kernel = [row for row in group if row["implementation"] == "milkernels"]
        found += [Comparison(row, medians) for row in kernel]
    return found


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Over the ratios that are there; None if none is."""
    logarithms = [math.log(ratio) for ratio in ratios if ratio is not None]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """A table: for each dtype, shape, layout and mode the geometric means over the cases."""
    grouped: dict[results.Key, list[Comparison]] = defaultdict(list)
    names = ("dtype", "shape", "layout", "mode")
    for comparison in comparisons(rows):
        grouped[tuple(comparison.row[name] for name in names)].append(comparison)
    if not grouped:
        yield "nothing was timed"
        return
    titles = (*names, "cases", "vs eager", "vs compile", "of the floor")
    body = [(*group, *_means(found)) for group, found in grouped.items()]
    widths = [max(len(row[column]) for row in (titles, *body)) for column in range(len(titles))]
    for row in (titles, *body):
        left = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True)]
        yield "  ".join(left + right)


def _means(found: list[Comparison]) -> tuple[str, ...]:
    eager = geometric_mean(item.ratio("eager") for item in found)
    compiled = geometric_mean(item.ratio("compile") for item in found)
    floor = geometric_mean(item.ratio("floor") for item in found)
    return (
        str(len(found)),
        "-" if eager is None else f"{eager:.2f}x",
        "-" if compiled is None else f"{compiled:.2f}x",
        "-" if floor is None else f"{floor:.0%}",
    )


def headline(rows: Iterable[Row]) -> Iterator[str]:
    """Markdown: the weighted averages' training steps in float32, for each machine, shape and
    layout and for each shape as a whole, as geometric means over poolings and kinds of input."""
    yield (
        "| machine | shape | layout | × eager | × `torch.compile` | least × `torch.compile` "
        "| share of the floor |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    grouped: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for comparison in comparisons(rows):
        row = comparison.row
        chosen = row["operation"] in CORE and row["dtype"] == "float32"
        if chosen and row["mode"] == MODES[1] and row["shape"] in ("audioset", "in_cache"):
            for layout in (row["layout"], "both"):
                grouped[row["machine"], row["shape"], layout].append(comparison)
    machines = sorted({machine for machine, _, _ in grouped})
    for machine, shape, layout in product(machines, SHAPES, (*LAYOUTS, "both")):
        found = grouped.get((machine, shape, layout))
        if not found:
            continue
        compiled = [item.ratio("compile") for item in found]
        timed = [ratio for ratio in compiled if ratio is not None]
        cells = (
            machine.replace("(R)", "").replace(" Processor @", ","),
            str(SHAPES[shape]).replace("x", "×"),
            layout.replace("_", " "),
            _number(geometric_mean(item.ratio("eager") for item in found)),
            _number(geometric_mean(compiled)),
            _number(min(timed) if timed else None),
            f"{geometric_mean(item.ratio('floor') for item in found) or 0:.0%}".replace("%", " %"),
        )
        yield f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    for line in headline(results.read(Path(sys.argv[1]))):
        print(line)
