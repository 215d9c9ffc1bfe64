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

from models.detection import TimedLabel

SEGMENT_SECONDS = 1.0
ONSET_COLLAR_SECONDS = 0.2
OFFSET_TOLERANCE = 0.2


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
    probability: np.ndarray, target: np.ndarray, thresholds: np.ndarray
) -> dict[str, float | None]:
    """mAP, mAUC, d' and micro-averaged F1 of clips.

    Classes without positives are left out of the means; None where none is left. At a mean area
    of 1 or 0 d' has no finite value and is None.

    Args:
        probability: (clips, classes).
        target: (clips, classes) of 0 and 1.
        thresholds: (classes,), a class is predicted at or above it.
    """
    precision, area = class_scores(probability, target)
    mean_area = _mean(area)
    decided = (probability >= thresholds).astype(int)
    return {
        "mAP": _mean(precision),
        "mAUC": mean_area,
        "d_prime": d_prime(mean_area),
        "clip_f1": float(f1_score(target, decided, average="micro", zero_division=0.0)),
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
    """Micro-averaged F1 and error rate of 1 s segments, and F1 of events.

    An event is right with its onset within 200 ms and its offset within 200 ms or 20 % of its
    length, whichever is more.

    Args:
        reference: true events of each clip.
        estimated: detected events of each clip; a clip left out has none.
        seconds: duration of every clip to evaluate.
        num_classes: how many.
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
    total = 0
    for clip_id, duration in seconds.items():
        true = _container(clip_id, reference.get(clip_id, ()))
        found = _container(clip_id, estimated.get(clip_id, ()))
        total += len(true)
        segments.evaluate(true, found, evaluated_length_seconds=duration)
        events.evaluate(true, found)
    if total == 0:
        return {"segment_f1": None, "segment_er": None, "event_f1": None}
    return {
        "segment_f1": _finite(segments.overall_f_measure()["f_measure"]),
        "segment_er": float(segments.overall_error_rate()["error_rate"]),
        "event_f1": _finite(events.overall_f_measure()["f_measure"]),
    }


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


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _finite(value: float) -> float:
    # sed_eval's F1 is NaN where nothing was found: precision and recall are both 0 there.
    return 0.0 if math.isnan(value) else float(value)
