"""Pictures of single clips: gradient thresholds, attention weights, heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.comparison.results import CorpusFacts, Results, System
from models.comparison.runs import Run, StudyOptions, powers
from models.comparison.two_step_pictures import draw_two_step
from models.comparison.weights import Inside, look_inside
from models.data.corpus import Corpus, open_corpus
from models.data.segments import LabelledClip
from models.detector import Detector, load_detector
from models.plots import CURVES, PROBABILITY, TRUTH, save_figure

WEIGHT = "#3f8f5b"
LEVEL = "#b5402c"


@dataclass(frozen=True)
class Shown:
    """A run's detector and one clip in it."""

    detector: Detector
    inside: Inside
    segment: LabelledClip
    corpus: Corpus

    @property
    def times(self) -> np.ndarray:
        """Middle of each output frame, in seconds."""
        frames = self.inside.heads if self.inside.frame is None else self.inside.frame
        return (np.arange(len(cast(np.ndarray, frames))) + 0.5) * self.detector.frame_seconds


def draw_frames(options: StudyOptions, results: Results) -> list[Path]:
    """Pictures of each corpus that has true events, from the runs of the first seed."""
    drawn = []
    for data, facts in zip(options.data, results.corpora, strict=True):
        if facts.event_seconds is None:
            continue
        corpus = open_corpus(data)
        for model in dict.fromkeys(system.model for system in options.systems):
            poolings = [one.pooling for one in options.systems if one.model == model]
            runs = {
                pooling: Run(options, data, System(model, pooling), options.seeds[0])
                for pooling in poolings
            }
            name = f"{data.name}_{model}.png"
            if {"linear_softmax", "power"} <= {*runs}:
                drawn.append(options.out / f"thresholds_{name}")
                _draw_thresholds(drawn[-1], runs, corpus, facts)
            if (
                "attention" in runs
                and _look(runs["attention"], corpus).inside.attention is not None
            ):
                drawn.append(options.out / f"attention_{name}")
                _draw_attention(drawn[-1], _look(runs["attention"], corpus))
            if "two_step_attention" in runs:
                drawn.append(options.out / f"two_step_{name}")
                shown = _look(runs["two_step_attention"], corpus)
                draw_two_step(
                    drawn[-1],
                    shown.detector,
                    _audio(shown.detector, shown.segment),
                    shown.segment.labels,
                    corpus.strong.get(shown.segment.clip_id, []),
                    shown.segment.clip_id,
                )
            if "gmap" in runs:
                drawn.append(options.out / f"heads_{name}")
                _draw_heads(drawn[-1], runs, corpus)
    return drawn


def _draw_thresholds(path: Path, runs: dict[str, Run], corpus: Corpus, facts: CorpusFacts) -> None:
    """Frames above θ·y learn upwards where the label is positive (Liu et al., figure 2)."""
    seconds = facts.event_seconds or [0.0] * len(facts.classes)
    order = sorted(range(len(facts.classes)), key=lambda index: seconds[index])
    labels = [label for label in (order[0], order[-1]) if _holding(corpus, label)]
    figure = Figure(figsize=(12, 2.9 * len(labels)), dpi=110)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(labels), 2, squeeze=False, sharey=True)
    for row, label in zip(grid, labels, strict=True):
        segment = _holding(corpus, label)[0]
        for axes, pooling in zip(row, ("linear_softmax", "power"), strict=True):
            shown = _look(runs[pooling], corpus, segment)
            exponents = powers(shown.detector)
            power = 1.0 if exponents is None else exponents[label]
            share = power / (power + 1)
            clip = shown.inside.clip[label]
            _curve(axes, shown, label)
            axes.axhline(clip, color="0.4", linestyle=":", label="clip probability y")
            axes.axhline(
                share * clip,
                color=LEVEL,
                linestyle="--",
                label="gradient threshold θ·y, θ = n/(n + 1)",
            )
            axes.set_title(
                f"{pooling.replace('_', ' ')}: {facts.classes[label]} "
                f"({seconds[label]:.1f} s on average), {segment.clip_id}\n"
                f"n = {power:.2f}, θ = {share:.2f}, y = {clip:.2f}",
                size=9,
            )
    _legend(figure, axes)
    save_figure(figure, path)


def _draw_attention(path: Path, shown: Shown) -> None:
    """Probability and weight of a class that the clip holds, and of the absent class of the largest
    frame probability (Wang et al., figure 3)."""
    inside = shown.inside
    peak = cast(np.ndarray, inside.frame).max(0)
    held = list(shown.segment.labels)
    absent = [label for label in np.argsort(-peak) if label not in held]
    labels = [max(held, key=lambda label: peak[label]), *absent[:1]]
    figure = Figure(figsize=(10, 2.7 * len(labels)), dpi=110)
    figure.set_layout_engine("constrained")
    for axes, label in zip(
        figure.subplots(len(labels), 1, squeeze=False)[:, 0], labels, strict=True
    ):
        _curve(axes, shown, label)
        clip = inside.clip[label]
        axes.axhline(clip, color="0.4", linestyle=":", label="clip probability")
        weights = axes.twinx()
        weights.plot(
            shown.times, cast(np.ndarray, inside.attention)[:, label], color=WEIGHT, linewidth=1.2
        )
        weights.set_ylabel("attention weight", color=WEIGHT)
        weights.set_ylim(bottom=0)
        weights.spines["top"].set_visible(False)
        state = "in the clip" if label in held else "not in the clip"
        name = shown.detector.classes.names[label]
        axes.set_title(
            f"{name}, {state} {shown.segment.clip_id}: clip probability {clip:.2f}", size=10
        )
    _legend(figure, figure.axes[0])
    save_figure(figure, path)


def _draw_heads(path: Path, runs: dict[str, Run], corpus: Corpus) -> None:
    """Spectrogram, and each head's weight of each frame (Hong et al., figure 3)."""
    looks = {
        name: _look(runs[name], corpus) for name in ("gmap", "attention_stats") if name in runs
    }
    first = next(iter(looks.values()))
    figure = Figure(figsize=(10, 2.4 * (len(looks) + 1)), dpi=110)
    figure.set_layout_engine("constrained")
    axes, *others = figure.subplots(len(looks) + 1, 1, squeeze=False, sharex=True)[:, 0]
    seconds = len(first.inside.features) * first.detector.preset.frame_seconds
    axes.imshow(
        first.inside.features.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, seconds, 0, first.inside.features.shape[1]),
    )
    names = ", ".join(first.detector.classes.names[label] for label in first.segment.labels)
    axes.set_title(f"{first.segment.clip_id}: {names}", size=10)
    axes.set_ylabel("mel band")
    for axes, (name, shown) in zip(others, looks.items(), strict=True):
        heads = cast(np.ndarray, shown.inside.heads)
        for head, colour in zip(heads.T, CURVES, strict=False):
            axes.plot(shown.times, head, color=colour, linewidth=1.2)
        _mark(axes, shown, None)
        count = heads.shape[1]
        axes.set_title(
            f"{name.replace('_', ' ')}: weights of {count} head{'s' * (count > 1)}", size=10
        )
        axes.set_ylabel("weight")
        axes.set_xlabel("time (s)")
    save_figure(figure, path)


def _curve(axes: Axes, shown: Shown, label: int) -> None:
    frame = cast(np.ndarray, shown.inside.frame)[:, label]
    _mark(axes, shown, label)
    axes.plot(shown.times, frame, color=PROBABILITY, linewidth=1.3, label="frame probability")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, shown.times[-1] + shown.times[0])
    axes.set_xlabel("time (s)")
    axes.spines[["top"]].set_visible(False)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _mark(axes: Axes, shown: Shown, label: int | None) -> None:
    """Shade the true events, of one class or of all."""
    named = False
    for event in shown.corpus.strong.get(shown.segment.clip_id, ()):
        if label is None or event.label == label:
            text = None if named else "true event"
            axes.axvspan(event.onset, event.offset, color=TRUTH, alpha=0.4, label=text, linewidth=0)
            named = True


def _look(run: Run, corpus: Corpus, segment: LabelledClip | None = None) -> Shown:
    """A run's detector in a clip: the one given, or that of most classes and then lowest name."""
    segment = segment or min(
        corpus.evaluation_clips, key=lambda one: (-len(one.labels), one.clip_id)
    )
    detector = load_detector(run.folder.model)
    return Shown(detector, look_inside(detector, _audio(detector, segment)), segment, corpus)


def _audio(detector: Detector, segment: LabelledClip) -> Tensor:
    preset = detector.preset
    return segment.load(preset.sample_rate, preset.clip_seconds)


def _holding(corpus: Corpus, label: int) -> Sequence[LabelledClip]:
    """Evaluation clips with events of a class, those of fewest classes first."""
    found = [
        segment
        for segment in corpus.evaluation_clips
        if any(event.label == label for event in corpus.strong.get(segment.clip_id, ()))
    ]
    return sorted(found, key=lambda segment: (len(segment.labels), segment.clip_id))
