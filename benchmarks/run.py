"""Time the kernels: `python -m benchmarks.run [--quick]`. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import milkernels
from benchmarks import cases, checking, machine, memory, results, summary, timing
from benchmarks.cases import Case, Inputs, Operation, Pooling
from benchmarks.operations import CORE, OPERATIONS
from benchmarks.results import Row

KERNELS = "milkernels"
EAGER = "eager"
COMPILED = "compile"
FLOOR = "floor"
COPY = "copy"

#: Load for each processor above which timings are not to be trusted.
_BUSY = 0.3

#: What a shell calls the exit code of a program that Ctrl-C ended.
_INTERRUPTED = 130

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """One run."""

    device: torch.device
    cases: list[Case]
    modes: list[str]
    compile: bool
    budget: float
    out: Path
    resume: bool


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks. Returns the process's exit code: 1 if a kernel was wrong."""
    try:
        options = parse(arguments)
        described = machine.describe(options.device)
        table = results.Table(options.out)
        _warn_if_busy()
        measured, finished = _run(options, described, table)
    except ValueError as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return 2
    for line in summary.lines(measured):
        print(line)
    wrong = [row for row in measured if row["status"] == results.FAILED]
    for row in wrong:
        setting = " ".join(row[name] for name in results.KEY[4:])
        print(f"benchmarks.run: {setting}: {row['note']}", file=sys.stderr)
    if not finished:
        print(f"benchmarks.run: interrupted; {options.out} keeps what was timed", file=sys.stderr)
        return _INTERRUPTED
    return int(any(row["implementation"] == KERNELS for row in wrong))


def parse(arguments: list[str] | None) -> Options:
    """Options from the command line.

    Raises:
        ValueError: if they name nothing that can be timed here.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--quick", action="store_true", help="two small shapes, without torch.compile")
    add("--filter", nargs="+", metavar="NAME", help="operations: patterns as 'power*', or 'core'")
    add("--layout", nargs="+", choices=cases.LAYOUTS, default=list(cases.LAYOUTS))
    add("--kind", nargs="+", choices=cases.KINDS, default=list(cases.KINDS))
    add("--mode", nargs="+", choices=cases.MODES, default=list(cases.MODES))
    add("--dtype", nargs="+", choices=cases.DTYPES, help="float32; on a GPU bfloat16 too")
    add("--shape", nargs="+", choices=cases.SHAPES)
    add("--compile", action=argparse.BooleanOptionalAction, help="time torch.compile too")
    add("--budget", type=float, help="seconds for each case and mode (1; with --quick 0.05)")
    add("--threads", type=int, help="CPU threads (PyTorch's default)")
    add("--out", type=Path, help="CSV file (benchmarks/results/DEVICE.csv)")
    add("--resume", action="store_true", help="leave out what this commit has timed already")
    chosen = parser.parse_args(arguments)
    device = _device(chosen.device)
    if chosen.threads is not None:
        if chosen.threads < 1:
            raise ValueError(f"--threads: expected 1 or more, got {chosen.threads}")
        torch.set_num_threads(chosen.threads)
    dtypes = chosen.dtype or (["float32", "bfloat16"] if device.type == "cuda" else ["float32"])
    shapes = chosen.shape or list(cases.QUICK_SHAPES if chosen.quick else cases.SHAPES)
    selected = cases.select(
        _operations(chosen.filter),
        chosen.layout,
        dtypes,
        chosen.kind,
        shapes,
    )
    budget = chosen.budget if chosen.budget is not None else (0.05 if chosen.quick else 1.0)
    name = f"quick_{device.type}.csv" if chosen.quick else f"{device.type}.csv"
    return Options(
        device=device,
        cases=list(selected),
        modes=chosen.mode,
        compile=not chosen.quick if chosen.compile is None else chosen.compile,
        budget=budget,
        out=chosen.out or _RESULTS / name,
        resume=chosen.resume,
    )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: PyTorch finds no GPU")
    serves = milkernels.build_info()["serves"][name]
    if serves["backend"] in (None, "reference"):
        raise ValueError(f"--device: no kernels serve {name} tensors: {serves['why']}")
    return torch.device(name)


def _operations(patterns: list[str] | None) -> list[Operation]:
    chosen: dict[str, Operation] = {}
    for pattern in patterns or ["*"]:
        names = CORE if pattern == "core" else fnmatch.filter(OPERATIONS, pattern)
        if not names:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"--filter: no operation matches {pattern!r}; there are {known}")
        chosen.update({name: OPERATIONS[name] for name in names})
    return list(chosen.values())


def _warn_if_busy() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY * (os.cpu_count() or 1):
        print(f"benchmarks.run: other programs are busy here (load {load:.1f})", file=sys.stderr)


def _run(options: Options, described: Row, table: results.Table) -> tuple[list[Row], bool]:
    """Measure the cases into the table. Returns the rows, and whether no interrupt cut it short."""
    measured: list[Row] = []
    progress = tqdm(options.cases, unit="case", disable=None)
    try:
        for case in progress:
            progress.set_postfix_str(f"{case.operation.name} {case.shape.name} {case.layout}")
            kept = _measured_before(case, options, described, table) if options.resume else None
            rows = kept if kept is not None else measure(case, options, described)
            if kept is None:
                table.add(rows)
            measured += rows
    except KeyboardInterrupt:
        return measured, False
    finally:
        progress.close()
        table.close()
    return measured, True


def _measured_before(
    case: Case, options: Options, described: Row, table: results.Table
) -> list[Row] | None:
    """The case's rows in the table, if this commit and these versions have measured them all."""
    rows: list[Row] = []
    names = (KERNELS, EAGER, *((COMPILED,) if options.compile else ()), FLOOR, COPY)
    for mode, name in itertools.product(options.modes, names):
        row = table.rows.get(results.key_of(_row(case, mode, name, described)))
        if row is None or any(row[column] != value for column, value in described.items()):
            return None
        rows.append(row)
    return rows


def measure(case: Case, options: Options, described: Row) -> list[Row]:
    """Check the case's implementations and time those that are right."""
    generator = torch.Generator(options.device).manual_seed(0)
    inputs = [cases.make_inputs(case, options.device, generator)]
    frame_bytes = inputs[0].frame_bytes
    if not case.shape.cached:
        cache = timing.last_level_cache_bytes(options.device)
        further = timing.copies_to_rotate(frame_bytes, cache) - 1
        inputs += [cases.make_inputs(case, options.device, generator) for _ in range(further)]
    described = {
        **described,
        "input_sets": str(len(inputs)),
        "frame_bytes": str(frame_bytes),
    }
    operation = case.operation
    kernel = operation.kernel(case)
    expected = checking.truth(case, inputs[0])
    first = {}
    # Before anything else has called it: what a program's first step waits for.
    try:
        first[KERNELS] = _first_calls(kernel, inputs[0], options)
        problem = checking.problem_of_kernel(case, kernel, inputs[0], expected)
    except Exception as error:
        problem = _in_a_line(error)
        if options.device.type == "cuda":
            torch.cuda.synchronize()  # raises again where the GPU can do nothing more
    if problem is not None:
        failed = {"status": results.FAILED, "note": problem}
        return [{**_row(case, mode, KERNELS, described), **failed} for mode in options.modes]
    baselines: dict[str, Pooling] = {EAGER: operation.eager(case), **operation.others(case)}
    if options.compile:
        baselines[COMPILED] = cases.compiled_form(case)
    verdicts = {}
    for name, function in baselines.items():
        verdicts[name], first[name] = _verdict(function, inputs[0], expected, options)
    right = {name: baselines[name] for name, verdict in verdicts.items() if verdict is None}
    rows = [
        {**_row(case, mode, name, described), **verdict}
        for mode in options.modes
        for name, verdict in verdicts.items()
        if verdict is not None
    ]
    for mode in options.modes:
        poolings = {KERNELS: kernel, **right}
        timings = _time(mode, poolings, inputs, options)
        peaks = _peaks(mode, poolings, inputs[0], options)
        rows += [
            {
                **_row(case, mode, name, described),
                **_timed(taken),
                **_compared(name, timings, _bytes_moved(mode, frame_bytes), frame_bytes),
                "first_call_seconds": f"{first[name][mode]:.4g}" if name in first else "",
                "peak_extra_bytes": str(peaks.get(name, "")),
            }
            for name, taken in timings.items()
        ]
    return rows


def _with_gradients(mode: str) -> bool:
    return mode != cases.MODES[0]


def _first_calls(function: Pooling, inputs: Inputs, options: Options) -> dict[str, float]:
    """Seconds of the first call in each mode."""
    taken = {}
    for mode in options.modes:
        marked = inputs.requiring_gradients(_with_gradients(mode))
        began = time.perf_counter()
        cases.step(function, marked)
        if options.device.type == "cuda":
            torch.cuda.synchronize(options.device)
        taken[mode] = time.perf_counter() - began
    return taken


def _peaks(
    mode: str, poolings: dict[str, Pooling], inputs: Inputs, options: Options
) -> dict[str, int]:
    marked = inputs.requiring_gradients(_with_gradients(mode))
    return {
        name: memory.peak_extra_bytes(partial(cases.step, pooling, marked), options.device)
        for name, pooling in poolings.items()
    }


def _bytes_moved(mode: str, frame_bytes: int) -> int:
    """Bytes that a pooling moves at least: one reading, or two and one writing."""
    return frame_bytes * (3 if _with_gradients(mode) else 1)


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _verdict(
    function: Pooling, inputs: Inputs, expected: checking.Truth, options: Options
) -> tuple[Row | None, dict[str, float]]:
    """Why a baseline is not timed, or None; and what its first calls took."""
    try:
        first = _first_calls(function, inputs, options)
        problem = checking.problem_of_baseline(function, inputs, expected)
    except Exception as error:
        return {"status": results.UNAVAILABLE, "note": _in_a_line(error)}, {}
    return (None if problem is None else {"status": results.FAILED, "note": problem}), first


def _time(
    mode: str, poolings: dict[str, Pooling], inputs: list[Inputs], options: Options
) -> dict[str, timing.Timing]:
    marked = itertools.cycle([item.requiring_gradients(_with_gradients(mode)) for item in inputs])

    def call_of(pooling: Pooling) -> timing.Call:
        return lambda: cases.step(pooling, next(marked))

    calls = {name: call_of(pooling) for name, pooling in poolings.items()}
    calls[FLOOR] = lambda: cases.floor(next(marked))
    copies = [torch.empty_like(tensor) for tensor in inputs[0].frames]
    calls[COPY] = lambda: [
        copy.copy_(tensor.detach())
        for copy, tensor in zip(copies, next(marked).frames, strict=True)
    ]
    return timing.interleaved(calls, timing.clock_for(options.device), options.budget)


def _compared(name: str, timings: dict[str, timing.Timing], moved: int, frame_bytes: int) -> Row:
    """Ratios of the other implementations' times to this one's, and its bandwidth."""
    own = timings[name].median

    def ratio(other: str) -> str:
        return f"{timings[other].median / own:.4g}" if other in timings else ""

    bandwidth = (2 * frame_bytes if name == COPY else moved) / own
    copied = 2 * frame_bytes / timings[COPY].median
    return {
        "times_eager": ratio(EAGER),
        "times_compile": ratio(COMPILED),
        "floor_share": ratio(FLOOR),
        "gigabytes_per_second": f"{bandwidth / 1e9:.4g}",
        "copy_share": f"{bandwidth / copied:.4g}",
    }


def _row(case: Case, mode: str, implementation: str, described: Row) -> Row:
    return {
        **dict.fromkeys(results.COLUMNS, ""),
        **described,
        "operation": case.operation.name,
        "mode": mode,
        "layout": case.layout,
        "dtype": case.dtype,
        "kind": case.kind,
        "shape": case.shape.name,
        "implementation": implementation,
        "batch": str(case.shape.batch),
        "classes": str(case.shape.classes),
        "frames": str(case.shape.frames),
        "width": str(case.shape.width),
        "heads": str(case.shape.heads),
        "cached": str(case.shape.cached).lower(),
    }


def _timed(taken: timing.Timing) -> Row:
    return {
        "status": results.TIMED,
        "median_seconds": f"{taken.median:.4g}",
        "lower_quartile_seconds": f"{taken.lower_quartile:.4g}",
        "upper_quartile_seconds": f"{taken.upper_quartile:.4g}",
        "samples": str(taken.samples),
        "calls_per_sample": str(taken.calls),
        "host_seconds": "" if taken.host is None else f"{taken.host:.4g}",
    }


if __name__ == "__main__":
    sys.exit(main())
