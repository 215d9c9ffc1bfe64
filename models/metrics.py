"""The measures of the papers: tagging from scikit-learn, localisation from sed_eval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

with warnings.catch_warnings():
    # dcase_util, which sed_eval imports, still uses pkg_resources.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    from dcase_util.containers import MetaDataContainer
    from sed_eval.sound_event import EventBasedMetrics, SegmentBasedMetrics

from models.detection import SEGMENT_SECONDS, TimedLabel

ONSET_COLLAR_SECONDS = 0.2
OFFSET_TOLERANCE = 0.2

LOCALISATION = (
    *("segment_f1", "segment_precision", "segment_recall"),
    *("segment_er", "segment_deletions", "segment_insertions"),
    *("segment_f1_macro", "segment_precision_macro", "segment_recall_macro"),
    *("event_f1", "event_precision", "event_recall"),
    *("event_f1_macro", "event_precision_macro", "event_recall_macro"),
)
"""Names of what `localisation_metrics` returns."""


def class_scores(probability: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC curve of each class.

    Args:
        probability: (clips, classes).
        target: (clips, classes) of 0 and 1.

    Returns:
        Two arrays (classes,); NaN for a class without positives (AUC: or without negatives).
    """
    classes = target.shape[1]
    precision = np.full(classes, np.nan)
    area = np.full(classes, np.nan)
    for index in np.flatnonzero(target.any(axis=0)):
        precision[index] = average_precision_score(target[:, index], probability[:, index])
        if not target[:, index].all():
            area[index] = roc_auc_score(target[:, index], probability[:, index])
    return precision, area


def tagging_metrics(
    probability: np.ndarray,
    target: np.ndarray,
    thresholds: np.ndarray,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float | None]:
    """mAP, mAUC, d', micro-averaged average precision, micro- and macro-averaged F1 of clips.

    Classes without positives are left out of the means; None where none is left. At a mean area
    of 1 or 0 d' has no finite value and is None.

    Args:
        probability: (clips, classes).
        target: (clips, classes) of 0 and 1.
        thresholds: (classes,), a class is predicted at or above it.
        scores: what `class_scores` returned, where it was called already.
    """
    precision, area = scores or class_scores(probability, target)
    mean_area = _mean(area)
    decided = probability >= thresholds
    present = target.any(axis=0)
    any_present = bool(present.any())
    return {
        "mAP": _mean(precision),
        "micro_AP": (
            float(average_precision_score(target.ravel(), probability.ravel()))
            if any_present
            else None
        ),
        "mAUC": mean_area,
        "d_prime": d_prime(mean_area),
        "clip_f1": _f1(target, decided, "micro"),
        "clip_f1_macro": (
            _f1(target[:, present], decided[:, present], "macro") if any_present else None
        ),
    }


def d_prime(area: float | None) -> float | None:
    """Separation of two unit normals with this area under the ROC curve: √2 Φ⁻¹(area)."""
    if area is None or not 0 < area < 1:
        return None
    return math.sqrt(2) * float(norm.ppf(area))


def localisation_metrics(
    reference: Mapping[str, Sequence[TimedLabel]],
    estimated: Mapping[str, Sequence[TimedLabel]],
    seconds: Mapping[str, float],
    num_classes: int,
) -> dict[str, float | None]:
    """F1, precision, recall and error rate of 1 s segments, and F1, precision, recall of events.

    An event is right with its onset within 200 ms and its offset within 200 ms or 20 % of its
    length, whichever is more. The error rate counts substitutions, deletions and insertions, and
    the last two are also given, each over the number of true segments. Names that end in `_macro`
    are means over the classes that have true events; the others count all classes together.

    Args:
        reference: true events of each clip.
        estimated: detected events of each clip; a clip left out has none.
        seconds: duration of every clip to evaluate.
        num_classes: how many.

    Returns:
        The measures by the names of `LOCALISATION`; None for all without any true event.
    """
    names = [str(index) for index in range(num_classes)]
    segments = SegmentBasedMetrics(names, time_resolution=SEGMENT_SECONDS)
    events = EventBasedMetrics(
        names,
        t_collar=ONSET_COLLAR_SECONDS,
        percentage_of_length=OFFSET_TOLERANCE,
        evaluate_onset=True,
        evaluate_offset=True,
    )
    present: set[int] = set()
    for clip_id, duration in seconds.items():
        true, found = reference.get(clip_id, ()), estimated.get(clip_id, ())
        present |= {label.label for label in true}
        # Both walk through all their classes for each clip: hundreds of them would take minutes.
        named = sorted({label.label for label in (*true, *found)})
        if not named:
            continue
        segments.event_label_list = events.event_label_list = [str(label) for label in named]
        pair = _container(clip_id, true), _container(clip_id, found)
        segments.evaluate(*pair, evaluated_length_seconds=duration)
        events.evaluate(*pair)
    if not present:
        return dict.fromkeys(LOCALISATION)
    errors = segments.overall_error_rate()
    measures = {
        "segment_er": errors["error_rate"],
        "segment_deletions": errors["deletion_rate"],
        "segment_insertions": errors["insertion_rate"],
    }
    for kind, metric in (("segment", segments), ("event", events)):
        overall = metric.overall_f_measure()
        by_class = [metric.class_wise_f_measure(str(label)) for label in sorted(present)]
        for name, key in (("f1", "f_measure"), ("precision", "precision"), ("recall", "recall")):
            measures[f"{kind}_{name}"] = overall[key]
            measures[f"{kind}_{name}_macro"] = np.mean([_finite(row[key]) for row in by_class])
    return {name: _finite(measures[name]) for name in LOCALISATION}


def _container(clip_id: str, labels: Sequence[TimedLabel]) -> MetaDataContainer:
    return MetaDataContainer(
        [
            {
                "filename": clip_id,
                "onset": label.onset,
                "offset": label.offset,
                "event_label": str(label.label),
            }
            for label in labels
        ]
    )


def _f1(target: np.ndarray, decided: np.ndarray, average: str) -> float:
    # A single column would be read as one of binary labels, and its negatives scored too.
    if target.shape[1] == 1:
        target, decided, average = target[:, 0], decided[:, 0], "binary"
    return float(f1_score(target, decided.astype(int), average=average, zero_division=0.0))


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _finite(value: float) -> float:
    # sed_eval divides zero by zero where nothing was found or nothing was there.
    return 0.0 if math.isnan(value) else float(value)
