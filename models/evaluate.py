"""A detector on a set of clips: probabilities, tuned thresholds and the papers' measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from models.data.audioset import StrongLabel
from models.detection import find_events, tune_thresholds
from models.detector import Detector
from models.errors import UserError
from models.feature_cache import FeatureBatch
from models.metrics import class_scores, localisation_metrics, tagging_metrics
from models.system import Batch, move_batch, run_batch


@dataclass(frozen=True)
class ClipResult:
    """One clip: clip (classes,), frame (frames, classes) and target (classes,) probabilities; frame
    is None of a network that tags clips alone."""

    clip_id: str
    clip: np.ndarray
    frame: np.ndarray | None
    target: np.ndarray
    seconds: float


def detect_clips(
    detector: Detector, batches: Iterable[Batch], description: str
) -> Iterator[ClipResult]:
    """Run a detector over batches, one clip at a time comes out, padding left out."""
    device = detector.thresholds.device
    detector.eval()
    for batch in tqdm(batches, description, unit="batch", disable=None, leave=False):
        if len(batch) == 0:
            continue
        with torch.no_grad():
            output = run_batch(detector, move_batch(batch, device))
        clip = output.clip.float().cpu().numpy()
        target = batch.target.cpu().numpy()
        for index, name in enumerate(batch.clip_ids):
            frame = output.frames_of(index)
            yield ClipResult(
                name,
                clip[index],
                None if frame is None else frame.float().cpu().numpy(),
                target[index],
                _seconds(batch, index, detector),
            )


def fit_thresholds(detector: Detector, batches: Iterable[Batch]) -> None:
    """Set the detector's thresholds to the best clip-level F1 of each class on held-out clips."""
    results = list(detect_clips(detector, batches, "thresholds"))
    thresholds = tune_thresholds(
        np.stack([result.clip for result in results]),
        np.stack([result.target for result in results]),
    )
    detector.thresholds.copy_(torch.from_numpy(thresholds))


def evaluate(
    detector: Detector,
    batches: Iterable[Batch],
    strong: Mapping[str, Sequence[StrongLabel]],
) -> dict[str, object]:
    """The measures of `models.metrics` on some clips, and each class's own.

    Localisation is measured on the clips that `strong` names; without any, or without frame
    probabilities, it is None.
    """
    thresholds = detector.thresholds.cpu().numpy()
    clips, targets, found, seconds = [], [], {}, {}
    for result in detect_clips(detector, batches, "evaluation"):
        clips.append(result.clip)
        targets.append(result.target)
        if result.clip_id in strong and result.frame is not None:
            seconds[result.clip_id] = result.seconds
            found[result.clip_id] = find_events(
                result.frame,
                thresholds,
                detector.frame_seconds,
                result.seconds,
                clip=result.clip,
            )
    if not clips:
        raise UserError("none of the evaluation clips can be read: replace them")
    probability, target = np.stack(clips), np.stack(targets)
    precision, area = class_scores(probability, target)
    return {
        **tagging_metrics(probability, target, thresholds),
        **localisation_metrics(strong, found, seconds, len(detector.classes)),
        "clips": len(clips),
        "strongly_labelled_clips": len(seconds),
        "classes": [
            {
                "mid": mid,
                "name": name,
                "average_precision": _number(precision[index]),
                "auc": _number(area[index]),
                "threshold": float(thresholds[index]),
            }
            for index, (mid, name) in enumerate(
                zip(detector.classes.mids, detector.classes.names, strict=True)
            )
        ],
    }


def _seconds(batch: Batch, index: int, detector: Detector) -> float:
    if isinstance(batch, FeatureBatch):
        return batch.seconds[index]
    return batch.lengths[index].item() / detector.preset.sample_rate


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
