"""Train a detector: `python -m models.train --data DIR --model dcase2017_crnn --out RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from models.augmentation import AugmentationOptions
from models.checkpoint import write_text
from models.data.clips import report_cut_clips
from models.data.corpus import Corpus, open_corpus
from models.data.sampling import BALANCING
from models.detector import Detector, DetectorSpec, load_detector, save_detector
from models.errors import UserError, run_command
from models.evaluation import evaluate, fit_thresholds, held_out_events
from models.features import FeaturePreset
from models.kept_epochs import best_detector, kept_epoch
from models.mean_teacher import MeanTeacherOptions, MeanTeacherTraining, Supervision
from models.run_folder import RunFolder, write_history
from models.shard_data import ShardData, is_sharded
from models.system import DetectorTraining, TrainingOptions, gather
from models.train_options import TrainOptions, parse_train_options
from models.trainer import TrainerOptions, fit
from models.training_data import CachedFeatures, LoadingOptions, TrainingData, cache_features

MEASURES = (
    *("mAP", "mAUC", "d_prime", "clip_f1", "clip_f1_macro"),
    *("segment_f1", "segment_er", "event_f1", "event_f1_macro", "psds_1", "psds_2"),
)
"""Keys of metrics.json that compare systems."""


def main() -> None:
    """Read the command line, train and say what came out."""
    options = parse_train_options()
    run = RunFolder(options.out)
    finished = run.is_finished()
    try:
        metrics = train(options)
    except UserError as error:
        # A process that reads audio puts its traceback before the message.
        message = str(error).strip().splitlines()[-1]
        raise UserError(message.removeprefix("models.errors.UserError: ")) from error
    if finished:
        print(f"{options.out}: this run is finished already")
    if metrics:
        print_measures(metrics)


def train(
    options: TrainOptions, corpus: Corpus | None = None, cache: CachedFeatures | None = None
) -> dict[str, Any]:
    """Train, evaluate and write a run folder, going on where an earlier run of it stopped.

    Args:
        options: the run.
        corpus: `options.data`, where it is open already.
        cache: the corpus's features, where they are in memory already.

    Returns:
        The contents of metrics.json.

    Raises:
        UserError: for what the user can put right.
    """
    corpus = corpus or open_corpus(options.data, options.corpus)
    events = held_out_events(corpus, options.tune_frames)
    seed_everything(options.seed, verbose=False)
    spec = DetectorSpec(options.model, options.pooling, options.features, options.model_options)
    detector = _build(spec, corpus)
    options = replace(options, pooling=detector.spec.pooling, features=detector.spec.features)
    system = _system(options, detector, corpus)
    run = RunFolder(options.out)
    first = getattr(rank_zero_only, "rank", 0) == 0
    if first:
        run.claim(options.deciding(corpus.classes), options.circumstances())
    if run.is_finished():
        return run.read_metrics()
    data = _data(options, corpus, detector.preset, cache)
    # Other processes get it from the first, with the weights.
    if first and not run.checkpoint.exists():
        batches = data.normalisation_batches(detector.front_end, options.normalisation_clips)
        detector.front_end.fit_normalisation(
            tqdm(batches, "normalisation", unit="batch", disable=None, leave=False)
        )
    trainer = fit(system, data, _trainer_options(options), run)
    unreadable, cut = gather(list(data.unreadable.items())), gather(list(data.cut))
    if not trainer.is_global_zero:
        return {}
    data.unreadable.update(unreadable)
    data.cut.update(cut)
    epoch, kept_by = kept_epoch(options.keep, system.history)
    best = options.keep == "best"
    detector = load_detector(best_detector(run, epoch)) if best else system.finish()
    detector.to(trainer.strategy.root_device)
    fit_thresholds(detector, data.held_out_dataloader(), events)
    measures = evaluate(detector, data.evaluation_dataloader(), corpus.strong)
    metrics = {
        "model": options.model,
        "pooling": options.pooling,
        "epochs": options.epochs,
        "kept_epoch": epoch,
        "kept_by": kept_by,
        **measures,
        "unreadable_clips": len(data.unreadable),
    }
    write_history(run.history, system.history)
    save_detector(run.model, detector)
    write_unreadable(run.unreadable, data.unreadable)
    report_cut_clips(data.cut, detector.preset.clip_seconds)
    write_text(run.metrics, json.dumps(metrics, indent=2) + "\n")
    return metrics


def print_measures(metrics: Mapping[str, Any]) -> None:
    """Print what compares systems on one line; a measure that there is none of is a dash."""
    print("  ".join(f"{name} {_shown(metrics[name])}" for name in MEASURES))


def write_unreadable(path: Path, unreadable: Mapping[str, str]) -> None:
    """Write what is wrong with each clip that could not be read, and say how many there are."""
    if unreadable:
        lines = (f"{name}\t{reason}\n" for name, reason in sorted(unreadable.items()))
        write_text(path, "".join(lines))
        print_unreadable(unreadable, f", all named in {path}")


def print_unreadable(unreadable: Mapping[str, str], where: str = "") -> None:
    """Say how many clips could not be read, and what is wrong with the first."""
    if unreadable:
        name, reason = next(iter(unreadable.items()))
        print(
            f"{len(unreadable)} clips could not be read{where}; the first was {name}: {reason}",
            file=sys.stderr,
        )


def _data(
    options: TrainOptions, corpus: Corpus, preset: FeaturePreset, cache: CachedFeatures | None
) -> TrainingData | ShardData:
    loading = LoadingOptions(
        options.batch_size,
        options.held_out,
        options.seed,
        options.workers,
        options.strict,
        options.accumulate,
        BALANCING[options.balancing],
        options.mean_teacher,
    )
    if is_sharded(corpus):
        if options.epoch_batches is None:
            raise UserError(
                f"{options.data}: shards do not say how many clips they hold: give --epoch-batches"
            )
        if options.cache_features:
            raise UserError("--cache-features: expected a corpus that is not streamed from shards")
        return ShardData(corpus, preset, loading, options.epoch_batches)
    if cache is None and options.cache_features:
        cache = cache_features(corpus, preset, options.workers, options.strict)
    return TrainingData(corpus, preset, loading, cache)


def _system(options: TrainOptions, detector: Detector, corpus: Corpus) -> DetectorTraining:
    training = TrainingOptions(
        learning_rate=options.learning_rate,
        factor=options.factor,
        patience=options.patience,
        seed=options.seed,
        augmentation=AugmentationOptions(options.time_shift, options.mixup, options.spec_augment),
    )
    if options.mean_teacher is None:
        return DetectorTraining(detector, training)
    if is_sharded(corpus):
        raise UserError("--mean-teacher: expected a corpus that is not streamed from shards")
    if options.ema is not None:
        raise UserError("--ema: expected none with --mean-teacher, whose teacher is an average")
    strong = corpus.train_strong
    weak = {clip.clip_id for clip in corpus.train_clips if clip.clip_id not in strong}
    try:
        scheme = MeanTeacherOptions(consistency=options.consistency)
        return MeanTeacherTraining(detector, training, Supervision(strong, weak), scheme)
    except ValueError as error:
        raise UserError(f"--mean-teacher: {error}") from error


def _trainer_options(options: TrainOptions) -> TrainerOptions:
    return TrainerOptions(
        options.epochs,
        options.epoch_batches,
        options.devices,
        options.accelerator,
        options.nodes,
        options.precision,
        options.accumulate,
        options.ema,
        options.compile,
        options.save_every,
        options.log_every,
        options.keep_epochs,
        options.keep,
    )


def _build(spec: DetectorSpec, corpus: Corpus) -> Detector:
    try:
        return Detector(spec, corpus.classes)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the network cannot be built ({error}): correct --pooling or --model-option"
        ) from error


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    run_command(main)
