"""The demo's page: one HTML file with the table, the pictures and the sound in it."""

from __future__ import annotations

import base64
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.checkpoint import write_text

Metrics = Mapping[str, Mapping[str, float | None]]

COLUMNS = (
    ("mAP", "mAP", max),
    ("mAUC", "mAUC", max),
    ("d_prime", "d′", max),
    ("clip_f1", "clip F1", max),
    ("segment_f1", "segment F1", max),
    ("segment_er", "segment ER", min),
    ("event_f1", "event F1", max),
)
"""Key, heading and which end is best; the first four are about tagging."""

EXPLANATIONS = {
    "max": "Only a clip's largest frame learns from it: look for events found in part, or one of "
    "several repetitions missed.",
    "mean": "Every frame is pushed towards the clip's label alike, whether the event is there or "
    "not: look for probability far beside the events, and for low thresholds.",
    "attention": "Learned weights choose the frames, so a frame without weight may say anything: "
    "look for probability outside the events, and events that were given no attention.",
    "linear_softmax": "Frames above half of the clip's probability rise, the others fall: look for "
    "steep flanks and for rows near 0 or near 1, with little in between.",
    "power": "Linear softmax with an exponent learned for each class, which moves the line between "
    "rising and falling frames: look for differences in width from the picture above.",
}


@dataclass(frozen=True)
class Panel:
    """A pooling's picture, how much of the true time it found and how much of the found is true.

    `note` is one more sentence, or empty.
    """

    pooling: str
    picture: Path
    recall: float
    precision: float
    note: str = ""

    @property
    def explanation(self) -> str:
        """What to look at."""
        return EXPLANATIONS[self.pooling]


@dataclass(frozen=True)
class PageContent:
    """Everything that the page shows."""

    metrics: Metrics
    panels: Sequence[Panel]
    curves: Path
    clip: Path
    timing: Mapping[str, float]
    facts: Mapping[str, object]


class Timing:
    """Seconds that each stage took, over all the runs it needed, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add what the block takes, interrupted or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            stages = self.stages()
            stages[stage] = round(stages.get(stage, 0.0) + time.perf_counter() - start, 1)
            write_text(self._path, json.dumps(stages, indent=2) + "\n")

    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        return json.loads(self._path.read_text()) if self._path.exists() else {}


def write_page(path: Path, content: PageContent) -> None:
    """Write the page, whole or not at all; it needs no other file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = _embedded
    template = environment.get_template("demo_page.html.jinja")
    text = template.render(
        content=content,
        columns=COLUMNS,
        best=best_values(content.metrics),
        machine=describe_machine(),
        minutes=sum(content.timing.values()) / 60,
    )
    write_text(path, text)


def table_text(metrics: Metrics) -> str:
    """The table for a terminal; * marks the best of a column."""
    best = best_values(metrics)
    lines = [f"{'pooling':15}" + "".join(f"{heading:>12}" for _, heading, _ in COLUMNS)]
    for pooling, row in metrics.items():
        cells = [_cell(row[key]) + ("*" if row[key] == best[key] else " ") for key, *_ in COLUMNS]
        lines.append(f"{pooling:15}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def best_values(metrics: Metrics) -> dict[str, float | None]:
    """The best value of each column."""
    best = {}
    for key, _, choose in COLUMNS:
        present = (row[key] for row in metrics.values())
        values = [value for value in present if value is not None]
        best[key] = choose(values) if values else None
    return best


def describe_machine() -> str:
    """Processor, cores that may be used, and PyTorch's version."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, PyTorch {torch.__version__}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _embedded(path: Path, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
