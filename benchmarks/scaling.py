"""Time per element against the number of frames, and with one thread or all:
`python -m benchmarks.scaling`. Writes results/scaling_cpu.csv anew."""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import cases, machine, timing
from benchmarks.operations import OPERATIONS

#: Elements of every shape; bags have ten classes as soon as one of them is that long.
ELEMENTS = 10_000_000
FRAMES = (100, 1_000, 10_000, 100_000, 1_000_000)
NAMES = ("mean", "exp_softmax", "power", "max", "noisy_or")

COLUMNS = (
    *("machine", "instruction_set", "threads", "operation", "layout", "kind"),
    *("batch", "classes", "frames", "nanoseconds_per_element", "torch", "commit"),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure every case. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each bag length")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "scaling_cpu.csv"
    )
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    settings = list(itertools.product(NAMES, cases.LAYOUTS, sorted({1, threads})))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    spreads = []
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name, layout, used in tqdm(settings, unit="case", disable=None):
            torch.set_num_threads(used)
            rows = _measure(name, layout, options.budget)
            writer.writerows(rows)
            file.flush()
            times = [float(row["nanoseconds_per_element"]) for row in rows]
            spreads.append(max(times) / min(times))
    torch.set_num_threads(threads)
    print(
        "time per element, longest over shortest in a case's bag lengths: "
        f"median {statistics.median(spreads):.2f}, largest {max(spreads):.2f}"
    )
    return 0


def _measure(name: str, layout: str, budget: float) -> list[dict[str, str]]:
    """Rows of one operation: a forward and a backward pass for every bag length, interleaved."""
    operation = OPERATIONS[name]
    device = torch.device("cpu")
    calls: dict[str, timing.Call] = {}
    shapes = {}
    for frames in FRAMES:
        classes = min(500, max(10, ELEMENTS // frames))
        shape = cases.Shape("scaling", ELEMENTS // frames // classes, classes, frames, False)
        case = cases.Case(operation, layout, "float32", "logits", shape)
        inputs = cases.make_inputs(case, device, torch.Generator().manual_seed(0))
        marked, kernel = inputs.requiring_gradients(True), operation.kernel(case)
        calls[str(frames)] = partial(cases.step, kernel, marked)
        shapes[str(frames)] = shape
    timings = timing.interleaved(calls, timing.clock_for(device), budget * len(FRAMES))
    described = machine.describe(device)
    return [
        {
            **{column: described[column] for column in COLUMNS if column in described},
            "operation": name,
            "layout": layout,
            "kind": "logits",
            "batch": str(shape.batch),
            "classes": str(shape.classes),
            "frames": str(shape.frames),
            "nanoseconds_per_element": f"{timings[key].median / ELEMENTS * 1e9:.4g}",
        }
        for key, shape in shapes.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
