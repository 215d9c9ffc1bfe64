"""What the compiler makes of the Triton kernels: `python -m benchmarks.compile_report [--quick]`.

Compiles the kernels at their pinned configurations for GPUs that need not be here, and lists for
each its registers, spills, shared memory and the widths of its accesses to global memory. Exits
with 1 if a kernel does not compile or spills. With --smallest every size of theirs is 1, and they
go through the compiler's front end alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.compile_cases import all_cases, quick_cases, smallest_cases
from benchmarks.compile_launches import CompileCase
from benchmarks.disassembly import Machinery, inspect
from milkernels.kernels.compile import TARGETS, compile_launch, lower_launch


@dataclass(frozen=True)
class Outcome:
    """A case with what it compiled to, or with the error that it met."""

    case: CompileCase
    machinery: Machinery | None
    error: str | None

    @property
    def fault(self) -> str | None:
        """What is wrong with it, in a line. Code that stores nothing is what is left of a kernel
        that asked for more than a GPU has."""
        if self.machinery is None:
            return None if self.error is None else self.error.splitlines()[0]
        if not self.machinery.stores:
            return "it stores nothing"
        if self.machinery.spills or self.machinery.stack_bytes:
            return "it spills registers"
        return None

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.case),
            "kernel": self.case.kernel,
            "reads_frames": self.case.reads_frames,
            "writes_frames": self.case.writes_frames,
            "elements_per_thread": self.case.elements_per_thread,
            "error": self.error,
            **(asdict(self.machinery) if self.machinery is not None else {}),
        }


def compile_case(case: CompileCase) -> Outcome:
    """Compile and inspect one kernel."""
    try:
        if case.smallest:
            lower_launch(case.launch(), case.target)
            return Outcome(case, None, None)
        return Outcome(case, inspect(compile_launch(case.launch(), case.target)), None)
    except Exception as error:
        return Outcome(case, None, f"{type(error).__name__}: {error}")


def report(cases: list[CompileCase], jobs: int) -> list[Outcome]:
    """Outcomes in the order of the cases, compiled by `jobs` processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        outcomes = pool.map(compile_case, cases)
        return list(tqdm(outcomes, total=len(cases), unit="kernel", disable=None))


def lines(outcomes: list[Outcome]) -> list[str]:
    """The report, one line for each kernel."""
    titles = ("target", "kernel", "member", "layout", "dtype", "compiled for")
    measured = ("registers", "spills", "stack", "shared", "load bits", "store bits", "per element")
    table = [(*titles, *measured), *(_cells(outcome) for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def _cells(outcome: Outcome) -> tuple[str, ...]:
    case, machinery = outcome.case, outcome.machinery
    extent = "everything" if case.everything else "plain"
    setting = (case.target, case.kernel, case.member, case.layout, case.dtype, extent)
    if machinery is None:
        return (*setting, *("-",) * 7)
    return (
        *setting,
        str(machinery.registers),
        str(machinery.spills),
        str(machinery.stack_bytes),
        str(machinery.shared_bytes),
        _widths(machinery.loads),
        _widths(machinery.stores),
        _per_element(outcome),
    )


def _widths(counts: dict[int, int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in counts.items()) or "-"


def _per_element(outcome: Outcome) -> str:
    """Instructions of the walk over whole blocks for one element, and special ones."""
    share = outcome.case.elements_per_thread
    if share is None or outcome.machinery is None or not outcome.machinery.loops:
        return "-"
    walk = max(outcome.machinery.loops[-2:], key=lambda loop: loop.instructions)
    return f"{walk.instructions / share:.1f} ({walk.special / share:.1f})"


def main(arguments: list[str] | None = None) -> int:
    """Print the report. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.compile_report", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--quick", action="store_true", help="each kernel once for each target")
    parser.add_argument("--smallest", action="store_true", help="the same with every size 1")
    parser.add_argument("--json", type=Path, help="write the report to this file too")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        print(
            "benchmarks.compile_report: unset TRITON_INTERPRET",
            file=sys.stderr,
        )
        return 2
    choose = quick_cases if options.quick else all_cases
    choose = smallest_cases if options.smallest else choose
    outcomes = report([case for target in options.targets for case in choose(target)], options.jobs)
    for line in lines(outcomes):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps([outcome.as_dict() for outcome in outcomes], indent=1))
    bad = [outcome for outcome in outcomes if outcome.fault is not None]
    for outcome in bad:
        case = outcome.case
        setting = f"{case.target} {case.kernel} {case.member} {case.layout} {case.dtype}"
        print(f"benchmarks.compile_report: {setting}: {outcome.fault}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
