"""Pictures of a study: measures with their spread, powers against duration, and looks inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from models.comparison.frame_pictures import draw_frames
from models.comparison.report import COLUMNS
from models.comparison.results import Results, System
from models.comparison.runs import StudyOptions
from models.plots import CURVES, save_figure

_MEASURES = (
    *("mAP", "clip_f1", "ungated_segment_f1", "ungated_segment_er"),
    *("event_f1_macro", "psds_1"),
)


def draw_pictures(options: StudyOptions, results: Results) -> list[Path]:
    """Draw what the runs allow, into the study's folder; the paths of the pictures."""
    drawn = []
    for corpus in results.corpora:
        path = options.out / f"measures_{corpus.name}.png"
        draw_measures(path, results, corpus.name)
        drawn.append(path)
        if corpus.event_seconds is not None and any(
            run.powers for run in results.runs if run.corpus == corpus.name
        ):
            path = options.out / f"powers_{corpus.name}.png"
            draw_powers(path, results, corpus.name)
            drawn.append(path)
    return drawn + draw_frames(options, results)


def draw_measures(path: Path, results: Results, corpus: str) -> None:
    """One panel for each measure: a dot for each seed, a bar at the mean."""
    headings = {key: (heading, choose) for key, heading, choose in COLUMNS}
    systems = [system for system in results.systems if results.of(corpus, system)]
    shown = [
        key for key in _MEASURES if any(results.mean(corpus, system, key) for system in systems)
    ]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, rows * (1.0 + 0.32 * len(systems))), dpi=110)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, key in zip(grid.flat, shown, strict=False):
        heading, choose = headings[key]
        for row, system in enumerate(systems):
            mean = results.mean(corpus, system, key)
            if mean is None:
                continue
            values = [run.measures.get(key) for run in results.of(corpus, system).values()]
            values = [value for value in values if value is not None]
            axes.plot(values, [row] * len(values), "o", color=CURVES[0], alpha=0.6, markersize=5)
            axes.plot([mean.value], [row], "|", color=CURVES[3], markersize=16, markeredgewidth=2)
        axes.set_title(f"{heading} ({'higher' if choose is max else 'lower'} is better)", size=10)
        axes.set_yticks(range(len(systems)), [_name(system, systems) for system in systems])
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(f"{corpus}: dots are seeds, bars their means", size=11)
    save_figure(figure, path)


def draw_powers(path: Path, results: Results, corpus: str) -> None:
    """Learned power of each class against the mean length of its events (Liu et al., figure 3)."""
    facts = next(one for one in results.corpora if one.name == corpus)
    lengths = facts.event_seconds or []
    systems = [
        system
        for system in results.systems
        if any(run.powers for run in results.of(corpus, system).values())
    ]
    figure = Figure(figsize=(6.8 * len(systems), 4.6), dpi=110)
    figure.set_layout_engine("constrained")
    for axes, system in zip(
        figure.subplots(1, len(systems), squeeze=False)[0], systems, strict=True
    ):
        powers = np.array([run.powers for run in results.of(corpus, system).values() if run.powers])
        mean = powers.mean(0)
        for one in powers:
            axes.plot(lengths, one, ".", color=CURVES[0], alpha=0.45)
        axes.plot(lengths, mean, "D", color=CURVES[3], markersize=6)
        for seconds, power, name in zip(lengths, mean, facts.classes, strict=True):
            axes.annotate(name, (seconds, power), xytext=(6, 4), textcoords="offset points", size=8)
        axes.axhline(1, color="0.5", linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(min(lengths) * 0.8, max(lengths) * 1.8)
        axes.set_xlabel("mean length of the class's events (s)")
        axes.set_ylabel("power n; dashed: 1, where it starts")
        rank = spearmanr(lengths, mean)
        axes.set_title(
            f"{system}: rank correlation {rank.statistic:+.2f} (p = {rank.pvalue:.2g})", size=10
        )
        axes.grid(color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _name(system: System, systems: list[System]) -> str:
    alone = len({one.model for one in systems}) == 1
    return system.pooling.replace("_", " ") if alone else str(system)
