"""Whether memory grows while a detector is trained: `python -m stress.soak --steps 2000`.

A tiny network on a small corpus takes all the ways of a run: steps, held-out clips, checkpoints,
tables and curves. Then the poolings are called as often, on sizes that differ, on each backend.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

import milkernels
from milkernels import functional
from stress.programs import Running, begin_training, mix, private_memory, reported

GROWTH = 1.02
"""What the last quarter's memory may be of the second's: the first fills caches."""


def main() -> None:
    """Run both soaks and exit with 1 where memory grows."""
    parser = argparse.ArgumentParser(prog="python -m stress.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="of training, default 2000")
    parser.add_argument("--calls", type=int, default=20_000, help="of poolings, default 20000")
    parser.add_argument("--workers", type=int, default=1, help="that read clips, default 1")
    given = parser.parse_args()
    grown = [soak_training(given.steps, given.workers), soak_poolings(given.calls)]
    sys.exit(any(grown))


def soak_training(steps: int, workers: int) -> bool:
    """Train a run of so many steps and watch its processes; whether their memory grows."""
    with tempfile.TemporaryDirectory() as name, reported(f"{steps} steps of training") as found:
        data = mix(Path(name) / "corpus", train=96)
        # A quarter is held out, four clips a step.
        epochs = -(-steps // 18)
        options = ("--epochs", epochs, "--save-every", 10, "--patience", epochs)
        running = begin_training(data, Path(name) / "run", *options, "--workers", workers)
        samples = _watch(running, Path(name) / "run" / "history.csv", epochs)
        ended = running.end()
        assert ended.status == 0, ended
        return _grows(samples, found)


def soak_poolings(calls: int) -> bool:
    """Pool and differentiate so often; whether this process's memory grows."""
    rng = random.Random(0)
    samples: dict[float, list[float]] = {}
    with reported(f"{calls} calls of poolings") as found, milkernels.backend("cpp"):
        for number in range(calls):
            shape = (rng.randrange(1, 5), rng.randrange(1, 30), rng.randrange(1, 200))
            x = torch.rand(shape, requires_grad=True)
            mask = torch.rand(shape[0], shape[2]) < 0.7
            parameter = torch.ones(shape[1], requires_grad=True)
            name = rng.choice(["max", "linear_softmax", "power", "rank", "log_mean_exp"])
            more = {"power": (parameter,), "rank": (0.9,), "log_mean_exp": (parameter,)}
            getattr(functional, f"{name}_pool")(x, *more.get(name, ()), mask=mask).sum().backward()
            functional.pool_bce("linear_softmax", x, torch.ones(shape[:2])).backward()
            if number % (calls // 100 or 1) == 0:
                samples.setdefault(number / calls, []).append(private_memory(0))
        return _grows(samples, found)


def _watch(running: Running, history: Path, epochs: int) -> dict[float, list[float]]:
    """MB held, by the share of the epochs that are done. What is measured after them is more."""
    samples: dict[float, list[float]] = {}
    while running.is_alive():
        lines = history.read_text().count("\n") - 1 if history.exists() else 0
        if lines < epochs:
            samples.setdefault(max(lines, 0) / epochs, []).append(running.memory())
        time.sleep(0.1)
    return samples


def _grows(samples: dict[float, list[float]], found: list[str]) -> bool:
    """Compare the quarters' medians, which a process that ends or begins does not move."""
    quarters: list[list[float]] = [[], [], [], []]
    for done, held in samples.items():
        quarters[min(int(4 * done), 3)] += held
    medians = [sorted(held)[len(held) // 2] for held in quarters if held]
    found.append("medians of the quarters " + ", ".join(f"{mb:.1f}" for mb in medians) + " MB")
    return medians[-1] > GROWTH * medians[1]


if __name__ == "__main__":
    main()
