"""Interleaved timing: implementations take turns, so that a slow minute slows all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

Call = Callable[[], object]

_WARM_UP_CALLS = 2
_LONG_SECONDS = 0.5  # of a call that needs no further warming up
_MINIMUM_ROUNDS = 5
_MAXIMUM_ROUNDS = 500
_MAXIMUM_CALLS = 100

#: A GPU sleeps for this many times what the host needs to queue a sample, at 2 cycles per ns, and
#: at most so many seconds.
_HEAD_START = 2.0
_LONGEST_SLEEP = 0.02
_CYCLES_PER_SECOND = 2e9


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median and quartiles of the samples, each the mean of some calls.

    `host` is the median time in which the CPU queues a GPU's call, None on a CPU.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    samples: int
    calls: int
    host: float | None


@dataclass(frozen=True)
class Sample:
    """Seconds per call: until its work was done, and until it was queued."""

    total: float
    host: float | None


class Clock(Protocol):
    def sample(self, call: Call, calls: int) -> Sample: ...


class WallClock:
    """For a CPU: the time that passes."""

    def sample(self, call: Call, calls: int) -> Sample:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return Sample((time.perf_counter() - began) / calls, None)


class DeviceClock:
    """For a GPU: the time between two events in its stream.

    The GPU sleeps while the host queues the calls, so that it never waits for the host.
    """

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)
        self._host = 1e-4

    def sample(self, call: Call, calls: int) -> Sample:
        torch.cuda.synchronize()
        sleep = min(_HEAD_START * self._host * calls, _LONGEST_SLEEP)
        torch.cuda._sleep(int(sleep * _CYCLES_PER_SECOND))
        self._start.record()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        host = (time.perf_counter() - began) / calls
        self._end.record()
        self._end.synchronize()
        self._host = min(max(self._host, host), 1e-3)
        return Sample(self._start.elapsed_time(self._end) / 1e3 / calls, host)


def clock_for(device: torch.device) -> Clock:
    return DeviceClock() if device.type == "cuda" else WallClock()


def interleaved(
    calls: dict[str, Call],
    clock: Clock,
    budget: float,
    sample_seconds: float = 2e-4,
    rounds: int = _MINIMUM_ROUNDS,
) -> dict[str, Timing]:
    """Time every call, in rounds of one sample each and in a new order each round.

    Args:
        calls: implementations by name.
        clock: how a sample is taken.
        budget: seconds after which no new round begins.
        sample_seconds: calls are repeated until a sample lasts about this long.
        rounds: made in any case, at least two.
    """
    repeats = {name: _calls_per_sample(call, clock, sample_seconds) for name, call in calls.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    deadline = time.perf_counter() + budget
    for done in range(_MAXIMUM_ROUNDS):
        if done >= rounds and time.perf_counter() > deadline:
            break
        shuffle(order)
        for name in order:
            samples[name].append(clock.sample(calls[name], repeats[name]))
    return {name: _timing(taken, repeats[name]) for name, taken in samples.items()}


def _calls_per_sample(call: Call, clock: Clock, sample_seconds: float) -> int:
    call()
    if clock.sample(call, 1).total > _LONG_SECONDS:
        return 1
    fastest = min(clock.sample(call, 1).total for _ in range(_WARM_UP_CALLS))
    return max(1, min(_MAXIMUM_CALLS, round(sample_seconds / max(fastest, 1e-9))))


def _timing(samples: list[Sample], calls: int) -> Timing:
    lower, median, upper = statistics.quantiles([sample.total for sample in samples], n=4)
    hosts = [sample.host for sample in samples if sample.host is not None]
    host = statistics.median(hosts) if hosts else None
    return Timing(median, lower, upper, len(samples), calls, host)


def last_level_cache_bytes(device: torch.device) -> int:
    """Size of the last cache before memory, of one socket; 64 MiB where nobody says."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    texts = [path.read_text().strip() for path in sizes]
    return max((int(text[:-1]) * units[text[-1]] for text in texts), default=64 * 2**20)


def copies_to_rotate(frame_bytes: int, cache_bytes: int) -> int:
    """How many sets of inputs a call must rotate through for none to be left in the cache."""
    return 1 + -(-2 * cache_bytes // frame_bytes)
