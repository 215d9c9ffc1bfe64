"""From probabilities to decisions: a threshold per class, and events out of frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import label as label_runs
from scipy.ndimage import median_filter

SEGMENT_SECONDS = 1.0
"""Length of the segments that localisation is measured on."""


class TimedLabel(Protocol):
    """An event, true or detected: onset and offset in seconds and a class index."""

    @property
    def onset(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def label(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Event:
    """A detected event: onset and offset in seconds, class index, largest frame probability."""

    onset: float
    offset: float
    label: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """One recording: clip (classes,) and frame (frames, classes) probabilities, and events."""

    clip: np.ndarray
    frame: np.ndarray
    events: list[Event]


@dataclass(frozen=True)
class ScoredClip:
    """A clip whose events are known: frame probabilities (frames, classes), events, seconds."""

    frame: np.ndarray
    truth: Sequence[TimedLabel]
    seconds: float


@dataclass(frozen=True)
class DetectionOptions:
    """How frames become events; all in seconds, and 0 leaves the step out.

    Attributes:
        median: width of a median filter over the frame decisions, one or one for each class.
        max_gap: events of a class no further apart are one.
        min_duration: shorter events are dropped, after gaps were closed.
    """

    median: float | Sequence[float] = 0.0
    max_gap: float = 0.0
    min_duration: float = 0.0


def find_events(
    frame: np.ndarray,
    thresholds: np.ndarray,
    frame_seconds: float,
    duration: float | None = None,
    options: DetectionOptions | None = None,
    clip: np.ndarray | None = None,
    clip_thresholds: np.ndarray | None = None,
) -> list[Event]:
    """Events where the frame probability is at least the class's threshold, in order of onset.

    The thresholds are tuned on clips. Single frames of a class that the clip does not hold often
    pass them, so give `clip` where it is known.

    Args:
        frame: (frames, classes) probabilities.
        thresholds: (classes,).
        frame_seconds: from a frame to the next; frame t covers [t, t + 1) times that.
        duration: the clip's, in seconds: no event ends later.
        options: smoothing.
        clip: probability of the clip that each frame lies in, (classes,) or (frames, classes); a
            class below its threshold there has no events.
        clip_thresholds: (classes,) of `clip`; None where they are those of frames.
    """
    options = options or DetectionOptions()
    active = frame >= thresholds
    if clip is not None:
        active &= clip >= (thresholds if clip_thresholds is None else clip_thresholds)
    active = filter_frames(active, options.median, frame_seconds)
    limit = np.inf if duration is None else duration
    events = []
    for index in np.flatnonzero(active.any(axis=0)):
        for first, last in _runs(active[:, index], options.max_gap / frame_seconds):
            onset = first * frame_seconds
            offset = min(last * frame_seconds, limit)
            if offset > onset and offset - onset >= options.min_duration - 1e-9:
                peak = float(frame[first:last, index].max())
                events.append(Event(onset, offset, int(index), peak))
    return sorted(events, key=lambda event: (event.onset, event.label))


def filter_frames(
    frame: np.ndarray, median: float | Sequence[float], frame_seconds: float
) -> np.ndarray:
    """Median-filter frames over time; past both ends there is nothing.

    Filtering probabilities and then comparing them with a threshold gives what filtering the
    decisions gives.

    Args:
        frame: (frames, classes), probabilities or decisions.
        median: width in seconds, one or one for each class; below two frames nothing is done.
        frame_seconds: from a frame to the next.
    """
    # An even width has no middle; the next odd one has.
    widths = np.broadcast_to(np.rint(np.asarray(median) / frame_seconds), frame.shape[1:])
    widths = np.where(widths > 1, widths.astype(int) | 1, 1)
    filtered = frame.copy()
    for width in np.unique(widths[widths > 1]):
        columns = widths == width
        filtered[:, columns] = median_filter(frame[:, columns], (int(width), 1), mode="constant")
    return filtered


def mean_event_seconds(events: Iterable[TimedLabel], num_classes: int) -> np.ndarray:
    """(classes,) mean length of each class's events in seconds; that of all without any."""
    lengths: list[list[float]] = [[] for _ in range(num_classes)]
    for event in events:
        lengths[event.label].append(event.offset - event.onset)
    everything = [length for one in lengths for length in one]
    typical = float(np.mean(everything)) if everything else 0.0
    return np.array([np.mean(one) if one else typical for one in lengths])


def score_segments(clip: ScoredClip, frame_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Probability and truth (segments, classes) of a clip's 1 s segments, float32 and bool.

    A segment's probability is the largest of its frames', as an event that touches a segment marks
    it. `frame_seconds` is from a frame to the next.
    """
    segments = math.ceil(clip.seconds / SEGMENT_SECONDS)
    largest = np.zeros((segments, clip.frame.shape[1]), dtype=np.float32)
    times = (np.arange(len(clip.frame)) + 0.5) * frame_seconds
    places = np.minimum(times // SEGMENT_SECONDS, segments - 1).astype(int)
    np.maximum.at(largest, places, clip.frame)
    true = np.zeros(largest.shape, dtype=bool)
    for event in clip.truth:
        first = math.floor(event.onset / SEGMENT_SECONDS)
        true[first : math.ceil(event.offset / SEGMENT_SECONDS), event.label] = True
    return largest, true


def tune_thresholds(probability: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each class the threshold with the largest F1, half way to the next probability below.

    Args:
        probability: (clips, classes).
        target: (clips, classes) of 0 and 1; a class without positives gets 0.5.

    Returns:
        (classes,) float32 thresholds for `probability >= threshold`.
    """
    thresholds = np.full(probability.shape[1], 0.5, dtype=np.float32)
    for index in np.flatnonzero(target.any(axis=0)):
        order = np.argsort(-probability[:, index], kind="stable")
        ranked = probability[order, index].astype(np.float64)
        hits = np.cumsum(target[order, index])
        # F1 = 2 TP / (predicted + positives), when the first n clips are predicted.
        score = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
        below = np.append(ranked[1:], 0.0)
        # Equal probabilities cannot be told apart by a threshold.
        score[ranked == below] = -1
        if score.max() > 0:
            best = int(score.argmax())
            thresholds[index] = (ranked[best] + below[best]) / 2
    return thresholds


def _runs(active: np.ndarray, max_gap: float) -> list[tuple[int, int]]:
    """Half-open frame ranges where `active` (frames,) holds, gaps up to `max_gap` frames closed."""
    marks, count = label_runs(active)
    starts = [int(np.argmax(marks == mark)) for mark in range(1, count + 1)]
    lengths = np.bincount(marks, minlength=count + 1)[1:]
    merged: list[tuple[int, int]] = []
    for start, length in zip(starts, lengths, strict=True):
        if merged and start - merged[-1][1] <= max_gap + 1e-9:
            merged[-1] = (merged[-1][0], start + int(length))
        else:
            merged.append((start, start + int(length)))
    return merged
