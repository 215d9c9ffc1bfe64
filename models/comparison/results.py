"""What the runs of a study measured, by corpus, system and seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, order=True)
class System:
    """A network with a pooling."""

    model: str
    pooling: str

    @property
    def key(self) -> str:
        """As the command line has it: MODEL:POOLING."""
        return f"{self.model}:{self.pooling}"

    def __str__(self) -> str:
        return f"{self.model}, {self.pooling.replace('_', ' ')}"


@dataclass(frozen=True)
class RunResult:
    """One trained detector.

    Attributes:
        corpus: name of the corpus.
        system: network and pooling.
        seed: of the run.
        measures: by name; those that begin with `ungated_` count every frame above its class's
            threshold, whether the clip is tagged with the class or not.
        powers: exponent of each class, of power pooling alone.
    """

    corpus: str
    system: System
    seed: int
    measures: dict[str, float | None]
    powers: list[float] | None = None


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus: mean length of each class's events in seconds (None: unknown), and its SNR in dB
    where it was mixed at a single one."""

    name: str
    classes: list[str]
    event_seconds: list[float] | None
    snr: float | None
    train_clips: int
    evaluation_clips: int


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation over seeds; the latter is None of a single seed."""

    value: float
    spread: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


@dataclass(frozen=True)
class Results:
    """All runs of a study."""

    runs: list[RunResult]
    corpora: list[CorpusFacts] = field(default_factory=list)

    @cached_property
    def systems(self) -> list[System]:
        """In the order of the runs."""
        return list(dict.fromkeys(run.system for run in self.runs))

    def of(self, corpus: str, system: System) -> dict[int, RunResult]:
        """Runs by seed."""
        return {run.seed: run for run in self.runs if run.corpus == corpus and run.system == system}

    def has(self, corpus: str, systems: Iterable[System]) -> bool:
        """Whether each of the systems was run on the corpus."""
        return all(self.of(corpus, system) for system in systems)

    def mean(self, corpus: str, system: System, measure: str) -> Mean | None:
        """Over seeds; None where no run has the measure."""
        return mean_of(run.measures.get(measure) for run in self.of(corpus, system).values())

    def difference(self, corpus: str, one: System, other: System, measure: str) -> Mean | None:
        """`one` less `other`, over the seeds that both were run with."""
        left, right = self.of(corpus, one), self.of(corpus, other)
        pairs = [
            (left[seed].measures.get(measure), right[seed].measures.get(measure))
            for seed in sorted({*left} & {*right})
        ]
        return mean_of(a - b for a, b in pairs if a is not None and b is not None)


def mean_of(values: Iterable[float | None]) -> Mean | None:
    """Mean and spread of those that are there; None where none is."""
    present = [value for value in values if value is not None and math.isfinite(value)]
    if not present:
        return None
    spread = statistics.stdev(present) if len(present) > 1 else None
    return Mean(statistics.fmean(present), spread, len(present))
