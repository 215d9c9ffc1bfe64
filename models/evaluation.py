"""A detector on a set of clips: probabilities, tuned thresholds and the papers' measures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.corpus import Corpus
from models.detection import (
    DetectionOptions,
    ScoredClip,
    filter_frames,
    find_events,
    score_segments,
    tune_thresholds,
)
from models.detector import Detector
from models.errors import UserError
from models.feature_cache import FeatureBatch
from models.metrics import class_scores, localisation_metrics, tagging_metrics
from models.psds import psds
from models.system import Batch, move_batch, run_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipResult:
    """One clip: clip (classes,), frame (frames, classes) and target (classes,) probabilities.

    `frame` is None of a network that tags clips alone.
    """

    clip_id: str
    clip: np.ndarray
    frame: np.ndarray | None
    target: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Truth:
    """What is true of the part of a clip that was heard: events, and target (classes,)."""

    events: list[StrongLabel]
    target: np.ndarray


def truth_of(result: ClipResult, events: Sequence[StrongLabel]) -> Truth:
    """A clip's events that begin in its heard part, ended with it, and its target without the
    classes whose events all begin later."""
    heard = [
        replace(event, offset=min(event.offset, result.seconds))
        for event in events
        if event.onset < result.seconds
    ]
    target = result.target.copy()
    target[list({event.label for event in events} - {event.label for event in heard})] = 0
    return Truth(heard, target)


@dataclass(frozen=True)
class Judged:
    """What posteriors are held against.

    Attributes:
        classes: of the posteriors.
        thresholds: (classes,) of clips.
        frame_thresholds: (classes,) of frames.
        frame_seconds: from a frame to the next.
        strong: the true events of the clips that have any.
    """

    classes: ClassList
    thresholds: np.ndarray
    frame_thresholds: np.ndarray
    frame_seconds: float
    strong: Mapping[str, Sequence[StrongLabel]]


@dataclass(frozen=True)
class EvaluationOptions:
    """How frames become events.

    Attributes:
        median: width of a median filter over frames in seconds, one or one for each class.
        gated: a class below its threshold in the clip has no events there.
        psds: score all thresholds too, which takes as long as the rest and longer.
    """

    median: float | Sequence[float] = 0.0
    gated: bool = True
    psds: bool = True


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


def held_out_events(corpus: Corpus, tune_frames: bool) -> Mapping[str, list[StrongLabel]] | None:
    """What frames' thresholds are tuned on; None where they are those of clips.

    Raises:
        UserError: where they are wanted and the corpus has none.
    """
    if tune_frames and not corpus.train_strong:
        raise UserError(
            f"{corpus.directory}: expected train_strong.tsv for --tune-frames, found none: add it "
            "or leave the option out"
        )
    return corpus.train_strong if tune_frames else None


def fit_thresholds(
    detector: Detector,
    batches: Iterable[Batch],
    strong: Mapping[str, Sequence[StrongLabel]] | None = None,
) -> None:
    """Set the detector's thresholds to those that `tune_on` finds on held-out clips."""
    results = detect_clips(detector, batches, "thresholds")
    thresholds, frame_thresholds = tune_on(results, detector.frame_seconds, strong)
    detector.set_thresholds(torch.from_numpy(thresholds), torch.from_numpy(frame_thresholds))


def tune_on(
    results: Iterable[ClipResult],
    frame_seconds: float,
    strong: Mapping[str, Sequence[StrongLabel]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds (classes,) of clips and of frames with the best F1 of each class.

    Args:
        results: held-out clips; of those that `strong` names the segments are kept.
        frame_seconds: from a frame to the next.
        strong: events of held-out clips, whose 1 s segments the frames' thresholds are tuned on;
            None, or without any of the clips, for those of clips.

    Raises:
        UserError: where there are no clips.
    """
    pairs, segments = [], []
    for result in results:
        truth = truth_of(result, (strong or {}).get(result.clip_id, ()))
        pairs.append((result.clip, truth.target))
        if strong is not None and result.frame is not None and result.clip_id in strong:
            clip = ScoredClip(result.frame, truth.events, result.seconds)
            segments.append(score_segments(clip, frame_seconds))
    if not pairs:
        raise UserError("none of the held-out clips can be read: replace them")
    probability, target = (np.stack(part) for part in zip(*pairs, strict=True))
    thresholds = tune_thresholds(probability, target)
    if strong is None:
        return thresholds, thresholds
    if not segments:
        logger.warning("no held-out clip has known events: frames get the thresholds of clips")
        return thresholds, thresholds
    return thresholds, tune_thresholds(*map(np.concatenate, zip(*segments, strict=True)))


def evaluate(
    detector: Detector,
    batches: Iterable[Batch],
    strong: Mapping[str, Sequence[StrongLabel]],
    options: EvaluationOptions | None = None,
) -> dict[str, object]:
    """A detector's measures on some clips, as `measure` gives them."""
    return measure(
        detect_clips(detector, batches, "evaluation"),
        judged_by(detector, strong),
        options,
    )


def check_classes(path: Path, detector: Detector, corpus: Corpus) -> None:
    """Complain of a detector, from `path`, that knows other classes than the corpus."""
    if detector.classes != corpus.classes:
        raise UserError(
            f"{path}: expected a run of this corpus's {len(corpus.classes)} classes, found "
            f"{len(detector.classes)} others or in another order: use the class list that it "
            "was trained with"
        )


def judged_by(detector: Detector, strong: Mapping[str, Sequence[StrongLabel]]) -> Judged:
    """A detector's own thresholds."""
    return Judged(
        detector.classes,
        detector.thresholds.cpu().numpy(),
        detector.frame_thresholds.cpu().numpy(),
        detector.frame_seconds,
        strong,
    )


def measure(
    results: Iterable[ClipResult], judged: Judged, options: EvaluationOptions | None = None
) -> dict[str, object]:
    """The measures of `models.metrics` and `models.psds`, and each class's own.

    Localisation is measured on the clips that `judged.strong` names; without any, or without frame
    probabilities, it is None. Frames of those clips alone are held in memory. What is true of a
    clip after the part that was heard counts in no measure.
    """
    options = options or EvaluationOptions()
    thresholds, strong = judged.thresholds, judged.strong
    clips, targets, found = [], [], {}
    scored: dict[str, ScoredClip] = {}
    for result in results:
        truth = truth_of(result, strong.get(result.clip_id, ()))
        clips.append(result.clip)
        targets.append(truth.target)
        if result.frame is not None and result.clip_id in strong:
            found[result.clip_id] = find_events(
                result.frame,
                judged.frame_thresholds,
                judged.frame_seconds,
                result.seconds,
                DetectionOptions(options.median),
                clip=result.clip if options.gated else None,
                clip_thresholds=thresholds,
            )
            frame = filter_frames(result.frame, options.median, judged.frame_seconds)
            scored[result.clip_id] = ScoredClip(frame, truth.events, result.seconds)
    if not clips:
        raise UserError("none of the evaluation clips can be read: replace them")
    probability, target = np.stack(clips), np.stack(targets)
    precision, area = class_scores(probability, target)
    seconds = {name: clip.seconds for name, clip in scored.items()}
    true = {name: clip.truth for name, clip in scored.items()}
    return {
        **tagging_metrics(probability, target, thresholds, (precision, area)),
        **localisation_metrics(true, found, seconds, len(judged.classes)),
        **(psds(scored, judged.frame_seconds) if options.psds else {}),
        "clips": len(clips),
        "strongly_labelled_clips": len(scored),
        "classes": [
            {
                "mid": mid,
                "name": name,
                "average_precision": _number(precision[index]),
                "auc": _number(area[index]),
                "threshold": float(thresholds[index]),
                "frame_threshold": float(judged.frame_thresholds[index]),
            }
            for index, (mid, name) in enumerate(
                zip(judged.classes.mids, judged.classes.names, strict=True)
            )
        ],
    }


def _seconds(batch: Batch, index: int, detector: Detector) -> float:
    if isinstance(batch, FeatureBatch):
        return batch.seconds[index]
    return batch.lengths[index].item() / detector.preset.sample_rate


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
