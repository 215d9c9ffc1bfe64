"""Draw the timings: `python -m benchmarks.plot [CSV ...]`. Reads nothing but the CSV files.

One picture for each machine, dtype and mode, next to its CSV: how many times as fast as eager
PyTorch each operation is, in both layouts, one panel for each shape.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks import results
from benchmarks.cases import SHAPES
from benchmarks.operations import OPERATIONS
from benchmarks.summary import Comparison, comparisons, geometric_mean

_COLOURS = {
    ("milkernels", "classes_first"): "#1b6ca8",
    ("milkernels", "frames_first"): "#7fb8dc",
    ("compile", "classes_first"): "#b5651d",
    ("compile", "frames_first"): "#e3b58a",
}
_TABLES = [Path(__file__).parent / "results" / f"{device}.csv" for device in ("cpu", "cuda")]
_BAR = 0.2

#: Operations that leave room for level names, and for level numbers over their bars.
_NAMES_SIDE_BY_SIDE = 8
_NUMBERS_SIDE_BY_SIDE = 14


def main(arguments: list[str] | None = None) -> int:
    """Draw the pictures. Returns the process's exit code."""
    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(prog="benchmarks.plot", description=__doc__)
    parser.add_argument("tables", nargs="*", type=Path, help="CSV files (results/'s own)")
    parser.add_argument("--out", type=Path, help="folder of the pictures (the CSV's own)")
    options = parser.parse_args(arguments)
    tables = options.tables or [path for path in _TABLES if path.exists()]
    drawn: list[Path] = []
    try:
        for table in tables:
            drawn += draw(table, options.out or table.parent)
    except ValueError as error:
        print(f"benchmarks.plot: {error}", file=sys.stderr)
        return 2
    for path in drawn:
        print(path)
    if not drawn:
        print("benchmarks.plot: no timings to draw; run benchmarks.run first", file=sys.stderr)
    return int(not drawn)


def draw(table: Path, folder: Path) -> list[Path]:
    """Pictures of one table.

    Raises:
        ValueError: if the file is not such a table.
    """
    rows = {results.key_of(row): row for row in results.read(table)}.values()
    pictures: dict[tuple[str, ...], list[Comparison]] = defaultdict(list)
    names = ("machine", "instruction_set", "threads", "dtype", "mode")
    for comparison in comparisons(rows):
        if "eager" in comparison.medians:
            pictures[tuple(comparison.row[name] for name in names)].append(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    return [_picture(table.stem, key, found, folder) for key, found in pictures.items()]


def _picture(table: str, key: tuple[str, ...], found: list[Comparison], folder: Path) -> Path:
    machine, instruction_set, threads, dtype, mode = key
    device = found[0].row["device"]
    shapes = [name for name in SHAPES if any(item.row["shape"] == name for item in found)]
    figure, panels = pyplot.subplots(
        len(shapes), figsize=(11, 2.6 * len(shapes) + 0.8), squeeze=False, layout="constrained"
    )
    for axes, shape in zip(panels[:, 0], shapes, strict=True):
        _panel(axes, shape, [item for item in found if item.row["shape"] == shape])
    processor = f"{threads} threads, {instruction_set}" if device == "cpu" else instruction_set
    versions = f"torch {found[0].row['torch']}"
    title = f"{mode}, {dtype}: times as fast as eager PyTorch\n{machine}, {processor}, {versions}"
    drawn = [panel.get_legend_handles_labels() for panel in panels[:, 0]]
    bars = {label: bar for panel in drawn for bar, label in zip(*panel, strict=True)}
    figure.legend(
        bars.values(),
        bars.keys(),
        loc="outside upper center",
        ncols=len(bars),
        fontsize=8,
        title=title,
        title_fontproperties={"size": 10},
        alignment="center",
        frameon=False,
    )
    words = " ".join(
        [table, machine, instruction_set, f"{threads}t" * (device == "cpu"), dtype, mode]
    )
    path = folder / f"{re.sub(r'[^a-z0-9]+', '_', words.lower()).strip('_')}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _panel(axes: Axes, shape: str, found: list[Comparison]) -> None:
    names = [name for name in OPERATIONS if any(item.row["operation"] == name for item in found)]
    series = {
        key: [_speed(found, name, *key) for name in names]
        for key in _COLOURS
        if any(key == (part, item.row["layout"]) for item in found for part in item.medians)
    }
    for position, ((implementation, layout), ratios) in enumerate(series.items()):
        offset = (position - (len(series) - 1) / 2) * _BAR
        bars = axes.bar(
            [index + offset for index in range(len(names))],
            [ratio or 0 for ratio in ratios],
            _BAR,
            color=_COLOURS[implementation, layout],
            label=f"{implementation}, {layout}",
        )
        labels = [f"{ratio:.1f}" if ratio else "" for ratio in ratios]
        rotation = 90 if len(names) > _NUMBERS_SIDE_BY_SIDE else 0
        axes.bar_label(bars, labels, fontsize=6, rotation=rotation, padding=1)
    axes.set_title(f"{shape}: {SHAPES[shape]}", fontsize=9)
    axes.axhline(1, color="black", linewidth=0.8)
    crowded = len(names) > _NAMES_SIDE_BY_SIDE
    axes.set_xticks(
        range(len(names)),
        names,
        fontsize=8,
        rotation=30 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.set_xlim(-0.6, max(len(names), _NAMES_SIDE_BY_SIDE) - 0.4)
    axes.set_ylabel("ratio", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def _speed(
    found: Iterable[Comparison], operation: str, implementation: str, layout: str
) -> float | None:
    """Times as fast as eager: the geometric mean over probabilities and logits."""
    return geometric_mean(
        item.ratio("eager", implementation)
        for item in found
        if item.row["operation"] == operation and item.row["layout"] == layout
    )


if __name__ == "__main__":
    sys.exit(main())
