"""Average the posteriors of several runs, or of a run's epochs, and measure what comes out:
`python -m models.fuse --runs RUN RUN --data DIR --out DIR`. One run alone is measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import write_text
from models.corpus_options import add_eval_lists, add_ignore_unknown_labels
from models.data.audioset import StrongLabel
from models.data.clips import report_cut_clips
from models.data.corpus import Corpus, CorpusOptions, open_corpus
from models.detector import Detector, load_detector
from models.errors import CommandParser, UserError, run_command
from models.evaluation import (
    ClipResult,
    EvaluationOptions,
    Judged,
    check_classes,
    detect_clips,
    held_out_events,
    measure,
    tune_on,
)
from models.kept_epochs import kept_epochs
from models.median import add_median_options, check_median_options, median_widths
from models.run_folder import RunFolder
from models.shard_data import ShardData, held_out_data
from models.train import MEASURES
from models.training_data import LoadingOptions, TrainingData

Strong = Mapping[str, Sequence[StrongLabel]]

_SPLIT = ("data", "seed", "held_out", "held_out_lists", "ignore_unknown_labels")
"""What decides which clips a run held out."""


@dataclass(frozen=True)
class FuseOptions:
    """A fusion; `models.fuse --help` describes each option."""

    runs: tuple[Path, ...]
    data: Path
    out: Path
    over_epochs: bool = False
    weights: tuple[float, ...] | None = None
    batch_size: int = 32
    workers: int = 0
    tune_frames: bool = False
    median: float = 0.0
    median_share: float | None = None
    event_lengths: Path | None = None
    device: str = "cpu"
    eval_lists: tuple[str, ...] = ()
    ignore_unknown_labels: bool = False


@dataclass(frozen=True)
class FusedRun:
    """One run: its detectors, whose mean counts as one system, and how its clips were held out."""

    folder: RunFolder
    detectors: list[Detector]
    config: dict[str, object]
    data: TrainingData | ShardData


@dataclass(frozen=True)
class Fusion:
    """Runs with their weights; `frame_seconds` is from one frame of the mean to the next."""

    runs: list[FusedRun]
    weights: tuple[float, ...]

    @property
    def frame_seconds(self) -> float:
        """The finest of the runs'."""
        return min(run.detectors[0].frame_seconds for run in self.runs)

    def results(self, held_out: bool) -> Iterator[ClipResult]:
        """Evaluation or held-out clips, one after the other, through all detectors side by side: no
        set of frames is held in memory."""
        streams, shares, seconds = [], [], []
        for run, weight in zip(self.runs, self.weights, strict=True):
            for detector in run.detectors:
                data = run.data
                batches = data.held_out_dataloader() if held_out else data.evaluation_dataloader()
                streams.append(detect_clips(detector, batches, run.folder.path.name))
                shares.append(weight / len(run.detectors))
                seconds.append(detector.frame_seconds)
        for results in zip(*streams, strict=True):
            yield mean_result(results, shares, seconds, self.frame_seconds)

    def thresholds(self, data: Path, strong: Strong | None) -> tuple[np.ndarray, np.ndarray, str]:
        """Thresholds (classes,) of clips and of frames for a corpus, and where they come from."""
        splits = {json.dumps([run.config.get(key) for key in _SPLIT]) for run in self.runs}
        if len(splits) == 1 and self.runs[0].config.get("data") == str(data.resolve()):
            tuned = tune_on(self.results(held_out=True), self.frame_seconds, strong)
            return *tuned, "tuned on the clips that the runs held out"
        own = [load_detector(run.folder.model) for run in self.runs]
        clip, frame = (
            np.average([one.numpy() for one in each], axis=0, weights=self.weights)
            for each in zip(*((one.thresholds, one.frame_thresholds) for one in own), strict=True)
        )
        return clip, frame, "means of the runs' own"


def main() -> None:
    """Read the command line, fuse and print the measures of each run and of the fusion."""
    options = parse()
    metrics = fuse(options)
    shown = {
        **{row["run"]: row["measures"] for row in metrics["runs"]},
        f"fusion of {len(options.runs)}": metrics,
    }
    width = max(len(name) for name in shown)
    print(f"{'':{width}} " + "".join(f"{name:>16}" for name in MEASURES))
    for name, row in shown.items():
        print(f"{name:{width}} " + "".join(f"{_cell(row.get(key)):>16}" for key in MEASURES))


def fuse(options: FuseOptions) -> dict[str, Any]:
    """Average posteriors, tune thresholds, measure, and write `metrics.json` into a folder.

    The thresholds are tuned on the clips that the runs held out, where all of them held out the
    same clips of this corpus; otherwise they are the means of the runs' own.

    Returns:
        The contents of metrics.json.

    Raises:
        UserError: for what the user can put right.
    """
    corpus = open_corpus(options.data, _corpus_options(options))
    events = held_out_events(corpus, options.tune_frames)
    runs = [_open(path, options, corpus) for path in options.runs]
    out = RunFolder(options.out)
    out.claim_for_measures()
    fusion = Fusion(runs, options.weights or (1.0,) * len(runs))
    median = median_widths(
        options.median, options.median_share, options.event_lengths, corpus.classes
    )
    clip, frame, origin = fusion.thresholds(options.data, events)
    judged = Judged(corpus.classes, clip, frame, fusion.frame_seconds, corpus.strong)
    metrics = {
        "runs": [
            {
                "run": str(run.folder.path),
                "weight": weight,
                "detectors": len(run.detectors),
                "measures": _measures(run.folder),
            }
            for run, weight in zip(runs, fusion.weights, strict=True)
        ],
        "thresholds": origin,
        **measure(fusion.results(held_out=False), judged, EvaluationOptions(median)),
    }
    seconds = min(run.detectors[0].preset.clip_seconds for run in runs)
    report_cut_clips((name for run in runs for name in run.data.cut), seconds)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(out.metrics, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _corpus_options(options: FuseOptions) -> CorpusOptions:
    """Of DESED's lists those hold clips out that did so in all runs, if of this corpus."""
    configs = [run.read_config() for run in map(RunFolder, options.runs) if run.config.exists()]
    named = {_names(config.get("held_out_lists")) for config in configs}
    here = all(config.get("data") == str(options.data.resolve()) for config in configs)
    held_out = named.pop() if here and len(named) == 1 else ()
    return CorpusOptions(options.eval_lists, held_out, options.ignore_unknown_labels)


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def mean_result(
    results: Sequence[ClipResult],
    weights: Sequence[float],
    frame_seconds: Sequence[float],
    out_seconds: float,
) -> ClipResult:
    """The weighted mean of several systems' posteriors of one clip.

    Frames are brought to `out_seconds` apart: each takes the value of the system's frame at its
    middle. Systems without frame probabilities count for the clip's alone.
    """
    names = {result.clip_id for result in results}
    if len(names) > 1:
        raise UserError(
            f"{' and '.join(sorted(names))}: expected the same clips of every run, found different "
            "ones"
        )
    total = sum(weights)
    clip = np.sum(
        [weight * result.clip for weight, result in zip(weights, results, strict=True)], axis=0
    )
    framed = [
        (weight, _resampled(result.frame, seconds, out_seconds))
        for weight, result, seconds in zip(weights, results, frame_seconds, strict=True)
        if result.frame is not None
    ]
    frame = None
    if framed:
        count = min(len(one) for _, one in framed)
        added = np.sum([weight * one[:count] for weight, one in framed], axis=0)
        frame = (added / sum(weight for weight, _ in framed)).astype(np.float32)
    return replace(results[0], clip=(clip / total).astype(np.float32), frame=frame)


def _resampled(frame: np.ndarray, seconds: float, out_seconds: float) -> np.ndarray:
    count = round(len(frame) * seconds / out_seconds)
    places = ((np.arange(count) + 0.5) * out_seconds / seconds).astype(int)
    return frame[np.minimum(places, len(frame) - 1)]


def _open(path: Path, options: FuseOptions, corpus: Corpus) -> FusedRun:
    run = RunFolder(path)
    if not run.model.exists():
        raise UserError(f"{path}: expected the folder of a finished run, found no {run.model.name}")
    files = kept_epochs(run) if options.over_epochs else [run.model]
    if not files:
        raise UserError(
            f"{path}: expected detectors of several epochs, found none: train it with --keep-epochs"
        )
    detectors = [load_detector(file, options.device) for file in files]
    check_classes(path, detectors[0], corpus)
    loading = LoadingOptions(options.batch_size, *run.read_split(), options.workers)
    data = held_out_data(corpus, detectors[0].preset, loading)
    return FusedRun(run, detectors, run.read_config(), data)


def _measures(run: RunFolder) -> dict[str, object]:
    if not run.is_finished():
        return {}
    metrics = run.read_metrics()
    return {name: metrics.get(name) for name in MEASURES}


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}"


def parse() -> FuseOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.fuse", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--runs", type=Path, required=True, nargs="+", metavar="RUN", help="folders of models.train"
    )
    add("--data", type=Path, required=True, metavar="DIR", help="corpus folder")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for metrics.json")
    add_eval_lists(add)
    add_ignore_unknown_labels(add)
    add(
        "--over-epochs",
        action="store_true",
        help="of each run the mean of the epochs that train --keep-epochs kept",
    )
    add("--weights", type=float, nargs="+", metavar="W", help="one for each run, default equal")
    add("--batch-size", type=int, default=32, metavar="N", help="clips, default 32")
    add("--workers", type=int, default=0, metavar="N", help="processes that read audio, default 0")
    add(
        "--tune-frames",
        action="store_true",
        help="tune thresholds of frames on the events of held-out clips, as models.train does",
    )
    add_median_options(parser)
    add("--device", default="cpu", help="cpu (default) or cuda")
    given = parser.parse_args()
    check_median_options(parser, given)
    if given.batch_size < 1 or given.workers < 0:
        parser.error("--batch-size, --workers: expected at least 1 clip and 0 processes")
    if given.weights is not None and (
        len(given.weights) != len(given.runs) or not all(w > 0 for w in given.weights)
    ):
        parser.error(
            f"--weights: expected {len(given.runs)} numbers above 0, one for each run, got "
            f"{' '.join(f'{weight:g}' for weight in given.weights)}"
        )
    options = {**vars(given), "runs": tuple(given.runs), "eval_lists": tuple(given.eval_lists)}
    options["weights"] = None if given.weights is None else tuple(given.weights)
    return FuseOptions(**options)


DESCRIPTION = """Average the clip and frame posteriors of several runs, of any systems and poolings,
and measure the result on the evaluation clips. With --over-epochs each run is first averaged over
its last epochs."""


if __name__ == "__main__":
    run_command(main, resumes=False)
