"""Pictures of what a detector heard and of how it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from models.checkpoint import write_atomically
from models.detection import Prediction, TimedLabel
from models.features import FeaturePreset

TRUTH = "#f3c969"
PROBABILITY = "#2f6c9e"
DETECTED = "#b5402c"
CURVES = ("#2f6c9e", "#d98c2b", "#3f8f5b", "#b5402c", "#7d5ba6", "#6b6b6b", "#c76da2", "#2aa7a7")
_FEWEST_ROWS = 4
_MOST_ROWS = 8
_KILOHERTZ = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class DetectionPicture:
    """What `draw_detection` shows.

    Attributes:
        features: (frames, bands) log-mel spectrogram.
        prediction: probabilities and events.
        frame_seconds: from a frame of the prediction to the next.
        thresholds: (classes,).
        names: of the classes.
        title: above the picture.
        truth: true events, where known.
    """

    features: np.ndarray
    prediction: Prediction
    frame_seconds: float
    thresholds: np.ndarray
    names: Sequence[str]
    title: str
    truth: Sequence[TimedLabel] | None = None


def draw_detection(path: Path, picture: DetectionPicture, preset: FeaturePreset) -> None:
    """Draw spectrogram, frame probabilities and events of one clip into one picture.

    Four to eight classes have a row: those with events, then those the clip most likely holds.
    """
    rows = _rows(picture)
    seconds = len(picture.features) * preset.frame_seconds
    figure = Figure(figsize=(min(9 + seconds / 20, 18), 3.4 + 0.55 * len(rows)), dpi=110)
    figure.set_layout_engine("constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 0.55 * len(rows) + 0.3])
    figure.suptitle(picture.title, fontsize=11)
    _spectrogram(upper, picture.features, preset, seconds)
    _probabilities(lower, picture, rows)
    lower.set_xlim(0, seconds)
    lower.set_xlabel("time (s)")
    handles = [
        Patch(color=PROBABILITY, alpha=0.45, label="frame probability, 0 to 1 in each row"),
        Line2D([], [], color="0.35", linestyle="--", linewidth=1, label="threshold"),
        Patch(color=DETECTED, label="detected event"),
    ]
    if picture.truth is not None:
        handles.insert(0, Patch(color=TRUTH, alpha=0.7, label="true event"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_training(path: Path, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw the training curves of several runs: both losses and the held-out mAP by epoch."""
    figure = Figure(figsize=(11, 3.6), dpi=110)
    figure.set_layout_engine("constrained")
    panels = (
        ("train_loss", "training loss (cross-entropy)"),
        ("held_out_loss", "held-out loss (cross-entropy)"),
        ("held_out_mAP", "held-out mean average precision"),
    )
    for axes, (column, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for colour, (name, history) in zip(CURVES, histories.items(), strict=False):
            epochs = [row["epoch"] for row in history]
            axes.plot(
                epochs, [row[column] for row in history], color=colour, label=name, marker="."
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=1.02 if column == "held_out_mAP" else None)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(histories), frameon=False)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the path's suffix names."""
    kind = path.suffix.lstrip(".").lower()
    write_atomically(path, lambda file: figure.savefig(file, format=kind))


def image_suffixes() -> list[str]:
    """Suffixes of the picture formats that can be written, with their dots."""
    return [f".{kind}" for kind in Figure().canvas.get_supported_filetypes()]


def _rows(picture: DetectionPicture) -> list[int]:
    true = [] if picture.truth is None else sorted({label.label for label in picture.truth})
    found = [event.label for event in picture.prediction.events]
    likely = np.argsort(-picture.prediction.clip, kind="stable").tolist()
    found = sorted({*found} - {*true}, key=lambda label: -picture.prediction.clip[label])
    count = min(max(_FEWEST_ROWS, len(true) + len(found)), max(_MOST_ROWS, len(true)))
    return list(dict.fromkeys([*true, *found, *likely]))[:count]


def _spectrogram(axes: Axes, features: np.ndarray, preset: FeaturePreset, seconds: float) -> None:
    low, high = np.percentile(features, [2, 99.8]) if features.size else (0, 1)
    axes.imshow(
        features.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, -0.5, preset.bands - 0.5),
        cmap="magma",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    centres = librosa.mel_frequencies(
        preset.bands + 2, fmin=preset.min_frequency, fmax=preset.max_frequency
    )
    ticks = [kilohertz for kilohertz in _KILOHERTZ if kilohertz * 1000 <= preset.max_frequency]
    bands = np.interp(np.array(ticks) * 1000, centres, np.arange(len(centres)) - 1)
    axes.set_yticks(bands.clip(max=preset.bands - 0.5), [f"{tick:g}" for tick in ticks])
    axes.set_ylabel("frequency (kHz)")


def _probabilities(axes: Axes, picture: DetectionPicture, rows: Sequence[int]) -> None:
    times = (np.arange(len(picture.prediction.frame)) + 0.5) * picture.frame_seconds
    height = 0.72
    for row, label in enumerate(rows):
        base = len(rows) - 1 - row
        for true in picture.truth or ():
            if true.label == label:
                span = true.offset - true.onset
                axes.broken_barh([(true.onset, span)], (base, height), color=TRUTH, alpha=0.7)
        curve = base + height * picture.prediction.frame[:, label]
        axes.fill_between(times, base, curve, color=PROBABILITY, alpha=0.28, linewidth=0)
        axes.plot(times, curve, color=PROBABILITY, linewidth=1.2)
        level = base + height * picture.thresholds[label]
        axes.axhline(level, color="0.35", linestyle="--", linewidth=0.7)
        axes.axhline(base, color="0.8", linewidth=0.6)
        for event in picture.prediction.events:
            if event.label == label:
                bar = [(event.onset, event.offset - event.onset)]
                axes.broken_barh(bar, (base - 0.14, 0.11), color=DETECTED)
    axes.set_yticks(
        [len(rows) - 1 - row + height / 2 for row in range(len(rows))],
        [
            f"{_short(picture.names[label])}\nclip {picture.prediction.clip[label]:.2f}"
            for label in rows
        ],
        fontsize=9,
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.25, len(rows) - 0.05)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}…"
