"""What two-step attention attends to, what its steps give and what the decoder makes of a clip
(Deshmukh et al. 2020, figures of attention and reconstruction)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.data.audioset import StrongLabel
from models.detector import Detector
from models.plots import CURVES, TRUTH, save_figure
from models.two_step_autoencoder import TwoStepAutoencoder

_MOST_CLASSES = 3


def draw_two_step(
    path: Path,
    detector: Detector,
    waveform: Tensor,
    labels: tuple[int, ...],
    events: list[StrongLabel],
    title: str,
) -> None:
    """A column for each class of the clip: attention over frequency, both steps, attention over
    time; beside them the features and their reconstruction.

    Args:
        path: of the picture.
        detector: of a two_step_autoencoder.
        waveform: (samples,).
        labels: the clip's classes, of which three are shown.
        events: the clip's true events.
        title: above the picture.
    """
    lengths = torch.tensor([len(waveform)])
    with torch.no_grad():
        features, frames = detector.front_end(waveform[None], lengths)
        inside = cast(TwoStepAutoencoder, detector.network).explain(features, frames)
    shown = labels[:_MOST_CLASSES]
    seconds = features.shape[1] * detector.preset.frame_seconds
    times = (np.arange(features.shape[1]) + 0.5) * detector.preset.frame_seconds
    figure = Figure(figsize=(4.2 * (len(shown) + 1), 8.4), dpi=110)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(4, len(shown) + 1, squeeze=False, sharex=True)
    _map(grid[0, 0], features[0], seconds, "features, normalised")
    _map(grid[1, 0], inside.reconstruction[0], seconds, "decoder's reconstruction")
    for axes in grid[2:, 0]:
        axes.set_visible(False)
    grid[1, 0].tick_params(labelbottom=True)
    grid[1, 0].set_xlabel("time (s)")
    for column, label in zip(grid[:, 1:].T, shown, strict=True):
        name = detector.classes.names[label]
        _map(
            column[0],
            inside.frequency_attention[0, label],
            seconds,
            f"{name}: attention over frequency",
        )
        curves = (
            (
                inside.first_step,
                f"first step; second step gives {inside.second_step[0, label]:.2f}",
            ),
            (inside.time_attention, "attention over time"),
            (inside.time_attention * inside.first_step, "attention · first step"),
        )
        for axes, (values, text) in zip(column[1:], curves, strict=True):
            for event in events:
                if event.label == label:
                    axes.axvspan(event.onset, event.offset, color=TRUTH, alpha=0.4, linewidth=0)
            axes.plot(times, values[0, label].numpy(), color=CURVES[0], linewidth=1.2)
            axes.set_title(text, size=9)
            axes.spines[["top", "right"]].set_visible(False)
        column[-1].set_xlabel("time (s); shaded: true events")
    figure.suptitle(f"{title}; clip probabilities: {_probabilities(detector, inside.clip, shown)}")
    save_figure(figure, path)


def _map(axes: Axes, values: Tensor, seconds: float, title: str) -> None:
    extent = (0, seconds, 0, values.shape[1])
    axes.imshow(values.T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=extent)
    axes.set_title(title, size=9)
    axes.set_ylabel("mel band")


def _probabilities(detector: Detector, clip: Tensor, labels: tuple[int, ...]) -> str:
    names = detector.classes.names
    return ", ".join(f"{names[label]} {clip[0, label]:.2f}" for label in labels)
