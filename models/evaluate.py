"""Measure a trained detector on a corpus's clips and write what it says of them:
`python -m models.evaluate --checkpoint RUN --data DIR`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from models.checkpoint import write_text
from models.corpus_options import add_eval_lists, add_ignore_unknown_labels, corpus_options
from models.data.audioset import StrongLabel
from models.data.clips import report_cut_clips
from models.data.corpus import CorpusOptions, open_corpus, open_evaluation_set
from models.detector import Detector, load_detector
from models.errors import CommandParser, run_command
from models.evaluation import (
    ClipResult,
    EvaluationOptions,
    check_classes,
    detect_clips,
    judged_by,
    measure,
)
from models.median import add_median_options, check_median_options, median_widths
from models.run_folder import RunFolder
from models.scores import check_scores_folder, save_scores
from models.shard_data import evaluation_loader, held_out_data
from models.system import Batch
from models.train import print_measures, print_unreadable, write_unreadable
from models.train_arguments import natural, positive
from models.training_data import LoadingOptions

SPLITS = ("evaluation", "held_out")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateOptions:
    """An evaluation; `models.evaluate --help` describes each option."""

    checkpoint: Path
    data: Path
    split: str = "evaluation"
    out: Path | None = None
    scores: Path | None = None
    batch_size: int = 32
    workers: int = 0
    median: float = 0.0
    median_share: float | None = None
    event_lengths: Path | None = None
    device: str = "cpu"
    corpus: CorpusOptions = field(default_factory=CorpusOptions)


@dataclass(frozen=True)
class SplitClips:
    """What is measured: batches, true events by clip, the clips that could not be read and the
    names of those that are heard in part."""

    batches: Iterable[Batch]
    strong: Mapping[str, Sequence[StrongLabel]]
    unreadable: dict[str, str]
    cut: set[str]


def main() -> None:
    """Read the command line, measure and print."""
    print_measures(evaluate_checkpoint(parse()))


def evaluate_checkpoint(options: EvaluateOptions) -> dict[str, Any]:
    """Measure a detector with its own thresholds; write metrics.json and posteriors, if wanted.

    Returns:
        The contents of metrics.json.

    Raises:
        UserError: for what the user can put right.
    """
    out = None if options.out is None else RunFolder(options.out)
    if out is not None:
        out.claim_for_measures()
    if options.scores is not None:
        check_scores_folder(options.scores)
    path = options.checkpoint
    if path.is_dir():
        path = RunFolder(path).model
    detector = load_detector(path, options.device)
    held_out = options.split == "held_out"
    clips = _held_out(options, detector, path) if held_out else _evaluation(options, detector)
    median = median_widths(
        options.median, options.median_share, options.event_lengths, detector.classes
    )
    with closing(_results(options, detector, clips.batches)) as results:
        measures = measure(results, judged_by(detector, clips.strong), EvaluationOptions(median))
    metrics = {
        "checkpoint": str(path.resolve()),
        "data": str(options.data.resolve()),
        "split": options.split,
        "model": detector.spec.model,
        "pooling": detector.spec.pooling,
        **measures,
        "unreadable_clips": len(clips.unreadable),
    }
    report_cut_clips(clips.cut, detector.preset.clip_seconds)
    if out is None:
        print_unreadable(clips.unreadable)
    else:
        out.path.mkdir(parents=True, exist_ok=True)
        write_unreadable(out.unreadable, clips.unreadable)
        write_text(out.metrics, json.dumps(metrics, indent=2) + "\n")
    return metrics


def _results(
    options: EvaluateOptions, detector: Detector, batches: Iterable[Batch]
) -> Generator[ClipResult, None, None]:
    results = detect_clips(detector, batches, options.split.replace("_", "-"))
    if options.scores is not None:
        results = save_scores(results, options.scores, detector.classes, detector.frame_seconds)
    yield from results


def _evaluation(options: EvaluateOptions, detector: Detector) -> SplitClips:
    found = open_evaluation_set(options.data, detector.classes, options.corpus)
    loading = LoadingOptions(options.batch_size, workers=options.workers)
    unreadable: dict[str, str] = {}
    cut: set[str] = set()
    batches = evaluation_loader(
        found.clips, found.classes, detector.preset, loading, unreadable, cut
    )
    return SplitClips(batches, found.strong, unreadable, cut)


def _held_out(options: EvaluateOptions, detector: Detector, path: Path) -> SplitClips:
    run = _run_of(path)
    config = run.read_config()
    lists = tuple(cast(Sequence[str], config.get("held_out_lists") or ()))
    ignore = options.corpus.ignore_unknown_labels or bool(config.get("ignore_unknown_labels"))
    how = replace(options.corpus, held_out_lists=lists, ignore_unknown_labels=ignore)
    corpus = open_corpus(options.data, how)
    check_classes(path, detector, corpus)
    if config.get("data") != str(options.data.resolve()):
        logger.warning("%s: trained on another folder: these clips may not be held out", run.path)
    loading = LoadingOptions(options.batch_size, *run.read_split(), options.workers)
    data = held_out_data(corpus, detector.preset, loading)
    return SplitClips(data.held_out_dataloader(), corpus.train_strong, data.unreadable, data.cut)


def _run_of(path: Path) -> RunFolder:
    """The run that wrote a detector, which lies in its folder or in one of that."""
    folder = path.parent
    return RunFolder(folder if (folder / "config.json").exists() else folder.parent)


def parse() -> EvaluateOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.evaluate", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of models.train, or a file of it: model.pt, epochs/epoch-0003.pt",
    )
    add("--data", type=Path, required=True, metavar="DIR", help="corpus folder")
    add(
        "--split",
        choices=SPLITS,
        default="evaluation",
        help="evaluation clips (default), or the training clips that the run held out, on which "
        "its thresholds were tuned",
    )
    add_eval_lists(add)
    add_ignore_unknown_labels(add)
    add("--out", type=Path, metavar="DIR", help="folder for metrics.json")
    add(
        "--scores",
        type=Path,
        metavar="DIR",
        help="new folder for the posteriors: clips.tsv, and frames/CLIP.tsv in the form of "
        "sed_scores_eval",
    )
    add("--batch-size", type=positive, default=32, metavar="N", help="clips, default 32")
    add(
        "--workers",
        type=natural,
        default=0,
        metavar="N",
        help="processes that read audio, default 0",
    )
    add_median_options(parser)
    add("--device", default="cpu", help="cpu (default) or cuda")
    given = parser.parse_args()
    check_median_options(parser, given)
    options = {**vars(given), "corpus": corpus_options(given)}
    del options["eval_lists"], options["ignore_unknown_labels"]
    return EvaluateOptions(**options)


DESCRIPTION = """Measure a trained detector on the clips of a corpus, as models.train does in the
end, and write its posteriors for other programs. What is written is whole or not there."""


if __name__ == "__main__":
    run_command(main, resumes=False)
