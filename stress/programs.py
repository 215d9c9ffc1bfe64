"""The programs of models/, run in processes of their own that can be killed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from models import pack as packing
from models import train as training
from models.data.mixing import MixOptions, mix_corpus
from models.errors import run_command

NETWORK = {"channels": [2, 2, 4], "gru_width": 4}


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, or a signal's number below 0, and its stderr."""

    status: int
    message: str

    @property
    def error(self) -> str:
        """The line with which it told its user what is wrong; AssertionError if it did not."""
        last = self.message.splitlines()[-1:]
        # PyTorch raises at the loss of a worker wherever Python is, in a finalizer too: what is
        # ignored there comes before.
        assert self.status == 1 and last and last[0].startswith("error: "), self
        return last[0]


class Running:
    """A program that has begun; this process has loaded its modules already.

    Args:
        main: the program's.
        arguments: of its command line.
        messages: a file for its stderr.
    """

    def __init__(self, main: Callable[[], None], arguments: Sequence[object], messages: Path):
        self._messages = messages
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_main, args=(main, arguments, messages))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def children(self) -> list[int]:
        """Its own processes, such as those that read audio."""
        tasks = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()] if tasks.exists() else []

    def memory(self) -> float:
        """MB that it and its processes hold for themselves."""
        return sum(map(private_memory, [self.pid, *self.children()]))

    def kill(self, number: int) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end."""
        self._process.join()
        return Ended(self._process.exitcode, self._messages.read_text())


def _main(main: Callable[[], None], arguments: Sequence[object], messages: Path) -> None:
    torch.set_num_threads(1)
    # Writes to every object's page, which a fork shares until then, and not at some later time.
    gc.collect()
    sys.argv = ["program", *map(str, arguments)]
    with messages.open("w", buffering=1) as sys.stderr:
        run_command(main)


def private_memory(pid: int) -> float:
    """MB that a process, or with 0 this one, shares with no other; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def begin_training(data: Path, out: Path, *more: object) -> Running:
    """`models.train` with a small network."""
    network = (f"--model-option={name}={json.dumps(value)}" for name, value in NETWORK.items())
    common = ("--data", data, "--out", out, "--accelerator", "cpu", "--devices", 1)
    sizes = ("--batch-size", 4, "--held-out", 0.25, "--log-every", 1)
    return Running(training.main, [*common, *sizes, *network, *more], _messages(data, out))


def begin_packing(data: Path, out: Path, *more: object) -> Running:
    """`models.pack`."""
    return Running(packing.main, ["--data", data, "--out", out, *more], _messages(data, out))


def _messages(data: Path, out: Path) -> Path:
    """Beside the corpus: the disk of the results may be full."""
    return data.with_name(f"{out.name}.txt")


def mix(folder: Path, train: int = 48, seconds: float = 1.0) -> Path:
    """A small corpus."""
    mix_corpus(MixOptions(folder, train=train, evaluation=4, seconds=seconds), progress=False)
    return folder


@contextmanager
def reported(title: str) -> Iterator[list[str]]:
    """Print a check's findings behind its title; it fails by an AssertionError."""
    findings: list[str] = []
    yield findings
    print(f"{title}: {'; '.join(findings)}", flush=True)
