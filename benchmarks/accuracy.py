"""Errors of every operation beside eager PyTorch's: `python -m benchmarks.accuracy`.

Writes results/accuracy.csv anew: for each operation, kind of input, dtype and direction the largest
and the mean error of each backend that runs here, against the reference in float64. The unit is one
rounding of a tensor's largest value (its last place, the dtype's eps times that value), that of the
error budget. Backward is the gradients of x, the scores and the learned parameters, each in its own
unit. `TRITON_INTERPRET=1` has Triton's kernels run in its interpreter where there is no GPU;
`--table` prints the Markdown of accuracy.md from the CSV.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import milkernels
from benchmarks import machine
from benchmarks.cases import Case, Draw, Inputs, Operation, Pooling, Shape, step
from benchmarks.operations import OPERATIONS

RESULTS = Path(__file__).parent / "results" / "accuracy.csv"
SHAPE = Shape("accuracy", 4, 16, 64, cached=True, width=16, heads=4)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIRECTIONS = ("forward", "backward")
BACKENDS = ("cpp", "triton")
EAGER = "eager"
COLUMNS = (
    *("operation", "direction", "dtype", "kind", "implementation", "largest_ulp", "mean_ulp"),
    *("machine", "device", "instruction_set", "torch", "triton", "commit"),
)

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the operations, or print the table. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV")
    parser.add_argument("--operation", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--table", action="store_true", help="print what the CSV holds")
    options = parser.parse_args(arguments)
    if options.table:
        print("\n".join(table(read(options.out))))
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name in tqdm(options.operation, unit="operation", disable=None):
            writer.writerows(measure(OPERATIONS[name]))
            file.flush()
    return 0


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(operation: Operation) -> Iterator[Row]:
    """Rows of one operation, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = machine.describe(device)
    layout = operation.layouts[0]
    for kind in operation.kinds:
        for dtype, torch_dtype in DTYPES.items():
            case = Case(operation, layout, dtype, kind, SHAPE)
            draw = Draw(device, torch_dtype, torch.Generator(device).manual_seed(0))
            inputs = operation.inputs(case, draw).requiring_gradients(True)
            truth = step(operation.oracle(case), inputs.double().requiring_gradients(True))
            for implementation, results in _implementations(case, inputs):
                errors = list(map(errors_in_units, results, truth))
                for direction, parts in zip(DIRECTIONS, (errors[:1], errors[1:]), strict=True):
                    joined = torch.cat(parts)
                    yield {
                        **{column: described[column] for column in COLUMNS if column in described},
                        "operation": operation.name,
                        "direction": direction,
                        "dtype": dtype,
                        "kind": kind,
                        "implementation": implementation,
                        "largest_ulp": f"{joined.max().item():.3g}",
                        "mean_ulp": f"{joined.mean().item():.3g}",
                    }


def errors_in_units(result: Tensor, truth: Tensor) -> Tensor:
    """Each element's error in roundings of the tensor's largest value; 0 where all of it is 0.
    Elements beyond the dtype's range are left out."""
    limits = torch.finfo(result.dtype)
    within = truth.abs() <= limits.max
    result, truth = result.detach().double()[within], truth.detach()[within]
    unit = limits.eps * max(truth.abs().max().item(), limits.tiny) if truth.numel() else 1.0
    return (result - truth).abs() / unit


def _implementations(case: Case, inputs: Inputs) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """What eager PyTorch and each backend that serves here give: values, then gradients."""
    kernel: Pooling = case.operation.kernel(case)
    yield EAGER, step(case.operation.eager(case), inputs)
    for backend in BACKENDS:
        with milkernels.backend(backend):
            service = milkernels.build_info()["serves"][inputs.frames[0].device.type]
            if service["backend"] == backend:
                yield backend, step(kernel, inputs)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Markdown: for each dtype, operation and direction the larger kind's errors."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        errors = found[row["dtype"], row["operation"], row["direction"], row["implementation"]]
        for index, column in enumerate(("largest_ulp", "mean_ulp")):
            error = float(row[column])
            errors[index] = error if math.isnan(error) else max(error, errors[index])
    columns = [name for name in (*BACKENDS, EAGER) if any(key[3] == name for key in found)]
    for dtype in dict.fromkeys(key[0] for key in found):
        yield f"## {dtype}"
        yield ""
        titles = [f"{name}, {kind}" for kind in ("largest", "mean") for name in columns]
        yield f"| operation | direction | {' | '.join(titles)} |"
        yield f"| --- | --- |{' --- |' * len(titles)}"
        for operation, direction in dict.fromkeys(key[1:3] for key in found if key[0] == dtype):
            pairs = [found.get((dtype, operation, direction, name)) for name in columns]
            cells = [_cell(pair, index) for index in (0, 1) for pair in pairs]
            yield f"| `{operation}` | {direction} | {' | '.join(cells)} |"
        yield ""


def _cell(errors: list[float] | None, index: int) -> str:
    return "-" if errors is None else f"{errors[index]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
