"""Kills, full disks and lost workers: `python -m stress.faults` trains and packs small corpora.

A run goes on from its last checkpoint and comes to the result of a run that nothing disturbed, bit
for bit; what a user can put right is one line. Full disks are real where this process may mount a
small one (Linux, root); elsewhere those checks are left out and named.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch

from models.run_folder import read_history
from stress.programs import Ended, Running, begin_packing, begin_training, mix, reported

EPOCHS = 12
SAVE_EVERY = 4


def main() -> None:
    """Run every check in a temporary folder."""
    parser = argparse.ArgumentParser(prog="python -m stress.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs of a run, default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = mix(folder / "corpus")
        whole = folder / "whole"
        assert train(data, whole).status == 0
        kill_at_random(data, whole, given.kills, random.Random(given.seed))
        kill_a_training_worker(data, whole)
        kill_packing_workers(data)
        fill_the_disk_while_checkpointing(data, whole)
        fill_the_disk_while_packing(data)


def train(data: Path, out: Path, *more: object) -> Ended:
    return begin(data, out, *more).end()


def begin(data: Path, out: Path, *more: object) -> Running:
    return begin_training(data, out, "--epochs", EPOCHS, "--save-every", SAVE_EVERY, *more)


def saved_step(run: Path) -> int:
    """The step of a run's checkpoint, 0 before there is one."""
    path = run / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else 0


def logged_steps(run: Path) -> list[int]:
    lines = (run / "steps.csv").read_text().splitlines()[1:]
    return [int(line.partition(",")[0]) for line in lines]


def assert_same(run: Path, whole: Path) -> None:
    """Two runs have come to the same bits."""
    states = [torch.load(out / "model.pt", weights_only=True)["state"] for out in (run, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    for file in ("metrics.json", "steps.csv"):
        assert (run / file).read_text() == (whole / file).read_text(), file
    rows = [read_history(out / "history.csv") for out in (run, whole)]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]


def kill_at_random(data: Path, whole: Path, kills: int, rng: random.Random) -> None:
    run = whole.with_name("killed")
    with reported(f"{kills} SIGKILLs at random moments of training") as found:
        before, moments = 0, []
        for number in range(kills):
            running = begin(data, run)
            # Some while it begins, most in a step, a checkpoint or the held-out clips.
            if number % 4:
                _wait_for(running, lambda: saved_step(run) > before)  # noqa: B023
            time.sleep(rng.uniform(0, 0.5))
            running.kill(signal.SIGKILL)
            running.end()
            step = saved_step(run)
            assert step >= before, f"the checkpoint went back from step {before} to {step}"
            before = step
            moments.append(step)
        assert begin(data, run).end().status == 0
        assert_same(run, whole)
        steps = logged_steps(run)
        assert steps == list(range(1, len(steps) + 1))
        found.append(f"checkpoints at steps {moments} of {len(steps)}, the same bits in the end")


def kill_a_training_worker(data: Path, whole: Path) -> None:
    run = whole.with_name("worker")
    with reported("SIGKILL of a worker in training") as found:
        running = begin(data, run, "--workers", 2)
        _wait_for(running, lambda: saved_step(run) > SAVE_EVERY and running.children())
        _kill(running.children()[0])
        found.append(running.end().error)
        assert train(data, run, "--workers", 2).status == 0
        assert_same(run, whole)
        found.append("the same bits in the end")


def kill_packing_workers(data: Path) -> None:
    out, whole = data.with_name("killed.h5"), data.with_name("whole.h5")
    with reported("SIGKILL of a worker in packing") as found:
        assert begin_packing(data, whole).end().status == 0
        running = begin_packing(data, out, "--workers", 1)
        _wait_for(running, lambda: bool(running.children()))
        _kill(running.children()[0])
        found.append(running.end().error)
        assert begin_packing(data, out, "--workers", 1).end().status == 0
        assert_same_pack(out, whole)
        found.append("the same pack in the end")


def fill_the_disk_while_checkpointing(data: Path, whole: Path) -> None:
    with reported("disk full while checkpointing") as found, small_disk(8) as disk:
        if disk is None:
            found.append("left out: no disk may be mounted here")
            return
        run = disk / "run"
        running = begin(data, run)
        _wait_for(running, lambda: saved_step(run) > SAVE_EVERY)
        ballast = disk / "ballast"
        _fill(ballast)
        found.append(running.end().error)
        found.append(f"the checkpoint is of step {saved_step(run)}")
        assert not list(run.glob("*.part"))
        ballast.unlink()
        assert train(data, run).status == 0
        assert_same(run, whole)
        found.append("the same bits in the end")


def fill_the_disk_while_packing(data: Path) -> None:
    with reported("disk full while packing") as found, small_disk(64) as disk:
        if disk is None:
            found.append("left out: no disk may be mounted here")
            return
        out, ballast = disk / "train.h5", disk / "ballast"
        running = begin_packing(data, out)
        _wait_for(running, (disk / "train.h5.part").exists)
        _fill(ballast)
        found.append(running.end().error)
        ballast.unlink()
        assert begin_packing(data, out).end().status == 0
        assert_same_pack(out, data.with_name("whole.h5"))
        found.append("the same pack in the end")


def assert_same_pack(path: Path, whole: Path) -> None:
    with h5py.File(path) as one, h5py.File(whole) as other:
        for name in other:
            assert np.array_equal(one[name][:], other[name][:]), name


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """A disk of its own in memory, or None where that is not allowed."""
    with tempfile.TemporaryDirectory() as name:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", name]
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
        try:
            yield Path(name) if mounted.returncode == 0 else None
        finally:
            if mounted.returncode == 0:
                subprocess.run(["umount", "--lazy", name], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def _wait_for(running: Running, condition: Callable[[], object]) -> None:
    while running.is_alive() and not condition():
        time.sleep(0.01)


def _kill(pid: int) -> None:
    subprocess.run(["kill", "-KILL", str(pid)], check=True)


if __name__ == "__main__":
    main()
