"""The polyphonic sound detection score (PSDS) of DCASE's Task 4, by sed_scores_eval.

Bilen et al., "A framework for the robust evaluation of sound event detection", ICASSP 2020;
computed over all thresholds as Ebbers et al., "Threshold-independent evaluation of sound event
detection scores", ICASSP 2022.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    # dcase_util, which sed_scores_eval imports, still uses pkg_resources.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    from sed_scores_eval.base_modules.io import write_sed_scores
    from sed_scores_eval.base_modules.scores import create_score_dataframe
    from sed_scores_eval.intersection_based.psds import (
        multi_class_psd_roc_from_single_class_psd_rocs,
        psds_from_psd_roc,
    )
    from sed_scores_eval.intersection_based.psds import psds as library_psds

from models.detection import ScoredClip

logger = logging.getLogger(__name__)

Timed = list[tuple[float, float, str]]


@dataclass(frozen=True)
class Scenario:
    """What a score asks for.

    Attributes:
        detection: part of a detection that must lie in true events.
        truth: part of a true event that detections must cover.
        cross_trigger: part of a false detection in another class's events that makes it a cross
            trigger; None where cross triggers do not count.
        cross_trigger_cost: their weight beside the false positives.
        instability_cost: weight of the standard deviation over the classes.
        max_false_positives: an hour, where the curve ends.
    """

    detection: float
    truth: float
    cross_trigger: float | None = None
    cross_trigger_cost: float = 0.0
    instability_cost: float = 1.0
    max_false_positives: float = 100.0


SCENARIOS = {
    "psds_1": Scenario(0.7, 0.7),
    "psds_2": Scenario(0.1, 0.1, 0.3, 0.5),
}
"""DCASE 2021 to 2023, Task 4: 1 wants exact times, 2 wants classes that are not confused."""

_REST = "rest"
_MOST_CROSS_TRIGGERS = 500_000


def psds(clips: Mapping[str, ScoredClip], frame_seconds: float) -> dict[str, float | None]:
    """The scores of both scenarios; classes without a true event are left out.

    None where there is no true event. The second scenario looks at each pair of classes in each
    clip: it is None, with a warning, where clips times classes² exceed 500,000 (half a minute).
    """
    labels = sorted({event.label for clip in clips.values() for event in clip.truth})
    if not labels:
        return dict.fromkeys(SCENARIOS)
    work = len(clips) * len(labels) ** 2
    scores: dict[str, float | None] = {}
    scenarios = SCENARIOS
    if len(labels) == 1:
        # There is no other class to trigger, and the library cannot look for one.
        scenarios = {
            name: replace(scenario, cross_trigger=None, cross_trigger_cost=0.0)
            for name, scenario in SCENARIOS.items()
        }
    for name, scenario in scenarios.items():
        if scenario.cross_trigger is None:
            scores[name] = _without_cross_triggers(clips, labels, frame_seconds, scenario)
        elif work > _MOST_CROSS_TRIGGERS:
            logger.warning("%s is left out: it would take too long for so many classes", name)
            scores[name] = None
        else:
            scores[name] = _with_cross_triggers(clips, labels, frame_seconds, scenario)
    return scores


def write_frame_scores(
    path: Path, frame: np.ndarray, frame_seconds: float, names: Sequence[str]
) -> None:
    """Write frames (frames, classes) as the library's table: onset, offset and the classes."""
    table = create_score_dataframe(frame, _times(len(frame), frame_seconds), list(names))
    write_sed_scores(table, path)


def _with_cross_triggers(
    clips: Mapping[str, ScoredClip], labels: Sequence[int], frame_seconds: float, scenario: Scenario
) -> float:
    names = [str(label) for label in labels]
    frames = {key: clip for key, clip in clips.items() if len(clip.frame)}
    value, *_ = library_psds(
        {
            key: create_score_dataframe(
                clip.frame[:, labels],
                _times(len(clip.frame), frame_seconds),
                event_classes=names,
            )
            for key, clip in frames.items()
        },
        {
            key: [event for label in labels for event in _events(clip, label)]
            for key, clip in frames.items()
        },
        {key: clip.seconds for key, clip in frames.items()},
        cttc_threshold=scenario.cross_trigger,
        **_parameters(scenario),
    )
    return float(value)


def _without_cross_triggers(
    clips: Mapping[str, ScoredClip], labels: Sequence[int], frame_seconds: float, scenario: Scenario
) -> float:
    """Class by class, with the clips that do not hold the class joined into one.

    For their detections only the number counts, which the library finds without looking at each
    threshold; gaps of minus infinity keep them apart.
    """
    curves = {}
    for label in labels:
        name = str(label)
        scores, truth, seconds = {}, {}, {}
        others: list[np.ndarray] = []
        rest_seconds = 0.0
        for key, clip in clips.items():
            events = _events(clip, label)
            if events and len(clip.frame):
                scores[key] = create_score_dataframe(
                    clip.frame[:, [label]], _times(len(clip.frame), frame_seconds), [name]
                )
                truth[key], seconds[key] = events, clip.seconds
            else:
                others += [clip.frame[:, label], np.array([-np.inf])]
                rest_seconds += clip.seconds
        if others:
            joined = np.concatenate(others)[:, None]
            scores[_REST] = create_score_dataframe(joined, np.arange(len(joined) + 1.0), [name])
            truth[_REST], seconds[_REST] = [], rest_seconds
        *_, single = library_psds(scores, truth, seconds, **_parameters(scenario))
        curves[name] = single[name]
    hits, false_positives = multi_class_psd_roc_from_single_class_psd_rocs(
        curves, scenario.instability_cost, scenario.max_false_positives
    )
    return float(psds_from_psd_roc(hits, false_positives, scenario.max_false_positives))


def _parameters(scenario: Scenario) -> dict[str, float]:
    return {
        "dtc_threshold": scenario.detection,
        "gtc_threshold": scenario.truth,
        "alpha_ct": scenario.cross_trigger_cost,
        "alpha_st": scenario.instability_cost,
        "max_efpr": scenario.max_false_positives,
    }


def _times(frames: int, frame_seconds: float) -> np.ndarray:
    return np.arange(frames + 1) * frame_seconds


def _events(clip: ScoredClip, label: int) -> Timed:
    """A class's true events, those that touch joined, as the library expects."""
    joined: Timed = []
    for event in sorted(
        (event for event in clip.truth if event.label == label), key=lambda event: event.onset
    ):
        if joined and event.onset <= joined[-1][1]:
            onset, offset, name = joined[-1]
            joined[-1] = (onset, max(offset, event.offset), name)
        else:
            joined.append((event.onset, event.offset, str(label)))
    return joined
