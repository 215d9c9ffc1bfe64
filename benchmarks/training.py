"""Training steps with our poolings and with eager ones: `python -m benchmarks.training`.

Steps per second and peak memory of each published system, where the time goes, and heads on
embeddings that are there already. Writes results/training_DEVICE.csv. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import machine, memory, results, timing, training_cases
from benchmarks.results import Row
from benchmarks.training_cases import (
    HEADS,
    IMPLEMENTATIONS,
    IN_ONE_PASS,
    KERNELS,
    PLAIN,
    REFERENCE,
    SYSTEMS,
    HeadCase,
    Step,
    SystemCase,
)
from models.data.audio import load_audio
from models.features import FeaturePreset

KEY = ("machine", "device", "instruction_set", "threads", "part", "case", "implementation")
STAGES = ("decode", "features", "backbone", "pooling", "optimiser")
COLUMNS = (
    *KEY,
    *("batch", "frames", "width", "classes", "parameters"),
    *("median_seconds", "lower_quartile_seconds", "upper_quartile_seconds", "samples"),
    *("steps_per_second", "peak_extra_bytes", "times_eager", "times_reference"),
    *(f"{stage}_seconds" for stage in STAGES),
    *("python", "torch", "triton", "commit"),
)

_RESULTS = Path(__file__).parent / "results"
_INTERRUPTED = 130
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Options:
    """One run."""

    device: torch.device
    cases: Sequence[SystemCase | HeadCase]
    budget: float
    rounds: int
    out: Path


def main(arguments: list[str] | None = None) -> int:
    """Measure every case. Returns the process's exit code."""
    try:
        options = parse(arguments)
        table = results.Table(options.out, COLUMNS, KEY)
    except ValueError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 2
    measured: list[Row] = []
    described = machine.describe(options.device)
    progress = tqdm(options.cases, unit="case", disable=None)
    try:
        for case in progress:
            progress.set_postfix_str(case.name)
            rows = measure(case, options, described)
            table.add(rows)
            measured += rows
    except KeyboardInterrupt:
        print(f"benchmarks.training: interrupted; {options.out} keeps the rest", file=sys.stderr)
        return _INTERRUPTED
    except ArithmeticError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 1
    finally:
        progress.close()
        table.close()
    for line in summary(measured):
        print(line)
    return 0


def measure(case: SystemCase | HeadCase, options: Options, described: Row) -> list[Row]:
    """Rows of a case, one for each implementation, timed in turns.

    Raises:
        ArithmeticError: where the implementations do not agree.
    """
    if isinstance(case, SystemCase):
        return _measure_system(case, options, described)
    return _measure_head(case, options, described)


def _measure_system(case: SystemCase, options: Options, described: Row) -> list[Row]:
    device = options.device
    detector = training_cases.build_detector(case, device)
    preset = detector.preset
    batch = case.batch(device)
    generator = torch.Generator().manual_seed(0)
    samples = round(preset.clip_seconds * preset.sample_rate)
    waveform = (0.1 * torch.randn(batch, samples, generator=generator)).to(device)
    features = training_cases.features_of(detector.front_end, waveform)
    target = (torch.rand(batch, case.classes, generator=generator) < 0.1).float().to(device)
    steps = {
        name: Step(
            training_cases.choose(copy.deepcopy(detector.network), name),
            (features,),
            target,
            training_cases.two_passes,
        )
        for name in IMPLEMENTATIONS
    }
    _check(case.name, steps)
    calls: dict[str, timing.Call] = {f"step {name}": step for name, step in steps.items()}
    for name, step in steps.items():
        calls[f"pooling {name}"] = training_cases.pooling_call(step.network, step.inputs)
    calls["features"] = partial(training_cases.features_of, detector.front_end, waveform)
    taken = _timed(calls, options)
    stages = {
        "features": taken["features"].median,
        "optimiser": _optimiser(steps[KERNELS], options),
        "decode": _decode(preset, batch),
    }
    sizes = {
        "batch": batch,
        "frames": features.shape[1],
        "width": features.shape[2],
        "classes": case.classes,
    }
    rows = _rows("system", case.name, steps, sizes, taken, options, described)
    for row in rows:
        own = {**stages, "pooling": taken[f"pooling {row['implementation']}"].median}
        own["backbone"] = float(row["median_seconds"]) - own["pooling"] - own["optimiser"]
        row.update({f"{stage}_seconds": f"{seconds:.4g}" for stage, seconds in own.items()})
    return rows


def _measure_head(case: HeadCase, options: Options, described: Row) -> list[Row]:
    device = options.device
    generator = torch.Generator().manual_seed(0)
    size = (case.batch, case.frames, case.width)
    hidden = torch.randn(size, generator=generator).to(device)
    target = (torch.rand(case.batch, case.classes, generator=generator) < 0.01).float().to(device)
    steps = {
        name: Step(
            training_cases.choose(training_cases.build_head(case, device), name),
            (hidden, None),
            target,
            training_cases.two_passes,
        )
        for name in IMPLEMENTATIONS
    }
    _check(case.name, steps)
    if case.pooling != "attention_stats":
        head = copy.deepcopy(steps[KERNELS].network)
        steps[IN_ONE_PASS] = Step(head, (hidden, None), target, training_cases.one_pass)
    taken = _timed({f"step {name}": step for name, step in steps.items()}, options)
    sizes = {key: getattr(case, key) for key in ("batch", "frames", "width", "classes")}
    return _rows("head", case.name, steps, sizes, taken, options, described)


def _timed(calls: dict[str, timing.Call], options: Options) -> dict[str, timing.Timing]:
    clock = timing.clock_for(options.device)
    return timing.interleaved(calls, clock, options.budget, rounds=options.rounds)


def _check(name: str, steps: dict[str, Step]) -> None:
    """Refuse to time what computes something else."""
    with torch.no_grad():
        clips = {key: copy.deepcopy(step.network)(*step.inputs).clip for key, step in steps.items()}
    for key, clip in clips.items():
        off = float((clip - clips[REFERENCE]).abs().max())
        if not off <= _TOLERANCE:
            raise ArithmeticError(f"{name}: {key} is {off:.2g} off the reference")


def _optimiser(step: Step, options: Options) -> float:
    """Seconds of the optimiser's part alone."""
    step.loss(step).backward()
    gradients = [parameter.grad for parameter in step.network.parameters()]

    def call() -> None:
        for parameter, gradient in zip(step.network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        step.update()

    return _timed({"optimiser": call}, replace(options, budget=0.0))["optimiser"].median


def _decode(preset: FeaturePreset, clips: int) -> float:
    """Seconds in which one process reads a batch of FLAC files of the preset's rate."""
    rng = np.random.default_rng(0)
    samples = round(preset.clip_seconds * preset.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.flac" for index in range(clips)]
        for path in paths:
            tone = np.sin(np.arange(samples) * rng.uniform(0.02, 0.2))
            soundfile.write(
                path, 0.3 * tone + 0.05 * rng.standard_normal(samples), preset.sample_rate
            )

        def read() -> list[Tensor]:
            return [load_audio(path, preset.sample_rate, preset.clip_seconds) for path in paths]

        return timing.interleaved({"decode": read}, timing.WallClock(), 0.0)["decode"].median


def _rows(
    part: str,
    name: str,
    steps: dict[str, Step],
    sizes: dict[str, int],
    taken: dict[str, timing.Timing],
    options: Options,
    described: Row,
) -> list[Row]:
    rows = []
    for implementation, step in steps.items():
        took = taken[f"step {implementation}"]
        rows.append(
            {
                **dict.fromkeys(COLUMNS, ""),
                **described,
                **{key: str(value) for key, value in sizes.items()},
                "part": part,
                "case": name,
                "implementation": implementation,
                "parameters": str(sum(p.numel() for p in step.network.parameters())),
                "median_seconds": f"{took.median:.4g}",
                "lower_quartile_seconds": f"{took.lower_quartile:.4g}",
                "upper_quartile_seconds": f"{took.upper_quartile:.4g}",
                "samples": str(took.samples),
                "steps_per_second": f"{1 / took.median:.4g}",
                "peak_extra_bytes": str(memory.peak_extra_bytes(step, options.device)),
                **{
                    f"times_{other}": f"{taken[f'step {other}'].median / took.median:.4g}"
                    for other in (PLAIN, REFERENCE)
                },
            }
        )
    return rows


def summary(rows: Sequence[Row]) -> list[str]:
    """A table of steps a second and memory for a terminal, and one of where a step's time goes."""
    lines = [f"{'case':40}{'':12}{'steps/s':>9}{'x eager':>9}{'x reference':>13}{'MB':>8}"]
    for row in rows:
        megabytes = int(row["peak_extra_bytes"]) / 1e6
        lines.append(
            f"{row['case']:40}{row['implementation']:12}{row['steps_per_second']:>9}"
            f"{row['times_eager']:>9}{row['times_reference']:>13}{megabytes:8.1f}"
        )
    systems = [row for row in rows if row["part"] == "system"]
    if systems:
        lines += ["", f"{'ms of a step':40}{'':12}" + "".join(f"{stage:>11}" for stage in STAGES)]
    for row in systems:
        values = [float(row[f"{stage}_seconds"]) * 1e3 for stage in STAGES]
        cells = "".join(f"{value:11.1f}" for value in values)
        lines.append(f"{row['case']:40}{row['implementation']:12}{cells}")
    return lines


def parse(arguments: list[str] | None) -> Options:
    """Options from the command line.

    Raises:
        ValueError: if they name nothing that can be timed here.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--part", nargs="+", choices=("system", "head"), default=["system", "head"])
    add("--case", nargs="+", metavar="NAME", help="names that contain one of these")
    add("--quick", action="store_true", help="two rounds of the smallest system and head")
    add("--budget", type=float, default=5.0, help="seconds for each case (5)")
    add("--rounds", type=int, default=5, help="samples of each in any case, 2 or more (5)")
    add("--threads", type=int, help="CPU threads (PyTorch's default)")
    add("--out", type=Path, help="CSV file (benchmarks/results/training_DEVICE.csv)")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: PyTorch finds no GPU")
    if chosen.rounds < 2:
        raise ValueError(f"--rounds: expected 2 or more, got {chosen.rounds}")
    if chosen.threads is not None:
        if chosen.threads < 1:
            raise ValueError(f"--threads: expected 1 or more, got {chosen.threads}")
        torch.set_num_threads(chosen.threads)
    cases: list[Any] = [
        *(SYSTEMS if "system" in chosen.part else ()),
        *(HEADS if "head" in chosen.part else ()),
    ]
    if chosen.case:
        cases = [case for case in cases if any(name in case.name for name in chosen.case)]
        if not cases:
            known = ", ".join([case.name for case in SYSTEMS] + [case.name for case in HEADS])
            raise ValueError(f"--case: none is named so; there are {known}")
    if chosen.quick:
        cases = [_small(case) for case in (SYSTEMS[0], HEADS[2])]
    name = f"{'quick_' if chosen.quick else ''}training_{chosen.device}.csv"
    return Options(
        torch.device(chosen.device),
        cases,
        0.0 if chosen.quick else chosen.budget,
        2 if chosen.quick else chosen.rounds,
        chosen.out or _RESULTS / name,
    )


def _small(case: SystemCase | HeadCase) -> SystemCase | HeadCase:
    if isinstance(case, HeadCase):
        return replace(case, batch=4, frames=10, classes=5, width=8)
    options = {"channels": [2, 2, 4], "gru_width": 4}
    return replace(case, cpu_batch=2, cuda_batch=2, options=options)


if __name__ == "__main__":
    sys.exit(main())
