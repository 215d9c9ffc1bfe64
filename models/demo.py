"""Train one network with five poolings on mixed sounds and compare: `python -m models.demo`.

Writes a table, pictures and a page, in about ten minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from milkernels.nn import PowerPool
from models.checkpoint import write_text
from models.data.audio import load_audio
from models.data.corpus import Corpus, open_corpus
from models.data.mixing import MixOptions, is_finished, mix_corpus
from models.data.segments import Segment, SegmentList
from models.demo_page import PageContent, Panel, Timing, table_text, write_page
from models.detection import TimedLabel
from models.detector import Detector, load_detector
from models.errors import CommandParser, UserError, run_command
from models.features import PRESETS
from models.plots import DetectionPicture, draw_detection, draw_training
from models.predict import log_mel_of, predict
from models.run_folder import RunFolder, read_history
from models.train import MEASURES, TrainOptions, train
from models.training_data import cache_features

POOLINGS = ("max", "mean", "attention", "linear_softmax", "power")
FEATURES = "dcase2017"


@dataclass(frozen=True)
class DemoOptions:
    """What the demo trains. The defaults fit ten minutes on two cores with time to spare.

    Attributes:
        out: folder of the page, with the corpus and one run per pooling in it.
        minutes: what the number of epochs is chosen for, before anything runs.
        train_clips, evaluation_clips: size of the corpus, in clips of 10 s.
        batch_size, learning_rate, seed: of each run.
        model_options: a network a quarter as wide as the paper's.
    """

    out: Path
    minutes: float = 10.0
    train_clips: int = 480
    evaluation_clips: int = 120
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0
    model_options: dict[str, object] = field(
        default_factory=lambda: {"channels": [8, 16, 32], "gru_width": 48}
    )

    @property
    def epochs(self) -> int:
        """The same for each pooling: 12 in ten minutes, of which one and a half are not training.

        That is twice the time that two idle cores need.
        """
        return max(1, round(12 * (self.minutes - 1.5) / 8.5))


def main() -> None:
    """Read the command line, run the demo and print the table."""
    options = parse()
    metrics = run_demo(options)
    print(table_text(metrics))
    print(f"page: {options.out / 'index.html'}")


def run_demo(options: DemoOptions) -> dict[str, dict[str, float | None]]:
    """Mix, train, compare and draw, going on where an earlier run stopped.

    Returns:
        The measures of each pooling, as in metrics.json.
    """
    runs = {pooling: RunFolder(options.out / pooling) for pooling in POOLINGS}
    timing = Timing(options.out / "timing.json")
    corpus = _corpus(options, timing)
    trainings = {pooling: _training(options, pooling) for pooling in POOLINGS}
    page = options.out / "index.html"
    unfinished = [pooling for pooling, run in runs.items() if not run.is_finished()]
    if unfinished:
        with timing.measure("features"):
            cache = cache_features(corpus, PRESETS[FEATURES])
        for pooling in unfinished:
            print(f"training with {pooling} pooling", flush=True)
            with timing.measure(f"training with {pooling} pooling"):
                train(trainings[pooling], corpus, cache)
    # Also checks that the finished runs are of these options.
    results = {pooling: train(training, corpus) for pooling, training in trainings.items()}
    metrics = {
        pooling: {name: result[name] for name in MEASURES} for pooling, result in results.items()
    }
    write_text(options.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if unfinished or not page.exists():
        with timing.measure("pictures"):
            panels = _draw(options, corpus, runs)
        write_page(
            page,
            PageContent(
                metrics=metrics,
                panels=panels,
                curves=options.out / "training_curves.png",
                clip=_choose_clip(corpus).path,
                timing=timing.stages(),
                facts=_facts(options, corpus),
            ),
        )
    return metrics


def _corpus(options: DemoOptions, timing: Timing) -> Corpus:
    _check_folder(options.out)
    mix = MixOptions(
        out=options.out / "corpus",
        train=options.train_clips,
        evaluation=options.evaluation_clips,
        seed=options.seed,
    )
    if is_finished(mix.out):
        mix_corpus(mix, progress=False)
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        print(f"mixing {mix.train + mix.evaluation} clips", flush=True)
        with timing.measure("mixing"):
            mix_corpus(mix)
    return open_corpus(mix.out)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, found a file: choose another --out")
    # The corpus is what a demo writes first.
    if out.exists() and any(out.iterdir()) and not (out / "corpus").is_dir():
        raise UserError(
            f"{out}: expected a new folder or one of an earlier demo, found other files: choose "
            "another --out"
        )


def _training(options: DemoOptions, pooling: str) -> TrainOptions:
    return TrainOptions(
        data=options.out / "corpus",
        out=options.out / pooling,
        pooling=pooling,
        features=FEATURES,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        model_options=options.model_options,
        accelerator="cpu",
        devices="1",
    )


def _choose_clip(corpus: Corpus) -> Segment:
    """The evaluation clip of most classes, then most events, then lowest name."""
    return min(
        cast(SegmentList, corpus.evaluation),
        key=lambda segment: (
            -len(segment.labels),
            -len(corpus.strong.get(segment.clip_id, ())),
            segment.clip_id,
        ),
    )


def _draw(options: DemoOptions, corpus: Corpus, runs: dict[str, RunFolder]) -> list[Panel]:
    draw_training(
        options.out / "training_curves.png",
        {pooling.replace("_", " "): read_history(run.history) for pooling, run in runs.items()},
    )
    segment = _choose_clip(corpus)
    truth = corpus.strong.get(segment.clip_id, [])
    panels = []
    for pooling, run in runs.items():
        detector = load_detector(run.model)
        waveform = load_audio(segment.path, detector.preset.sample_rate)
        prediction = predict(detector, waveform)
        picture = options.out / f"frame_probabilities_{pooling}.png"
        draw_detection(
            picture,
            DetectionPicture(
                log_mel_of(detector, waveform),
                prediction,
                detector.frame_seconds,
                detector.frame_thresholds.numpy(),
                detector.classes.names,
                title=f"{pooling.replace('_', ' ')} pooling, clip {segment.clip_id}",
                truth=truth,
            ),
            detector.preset,
        )
        overlap = _overlap(prediction.events, truth)
        panels.append(Panel(pooling, picture, *overlap, _learned_powers(detector)))
    return panels


def _overlap(found: Sequence[TimedLabel], truth: Sequence[TimedLabel]) -> tuple[float, float]:
    """Part of the true events' time that was found, and of the found time that is true."""
    common = sum(
        max(0.0, min(one.offset, other.offset) - max(one.onset, other.onset))
        for one in found
        for other in truth
        if one.label == other.label
    )
    true = sum(event.offset - event.onset for event in truth)
    marked = sum(event.offset - event.onset for event in found)
    return common / true if true else 0.0, common / marked if marked else 0.0


def _learned_powers(detector: Detector) -> str:
    pool = detector.network.pool
    if not isinstance(pool, PowerPool):
        return ""
    powers = pool.constrained_power().detach()
    low, high = int(powers.argmin()), int(powers.argmax())
    names = detector.classes.names
    return (
        f"The powers began at 1 and ended between {powers[low]:.2f} ({names[low]}) and "
        f"{powers[high]:.2f} ({names[high]})."
    )


def _facts(options: DemoOptions, corpus: Corpus) -> dict[str, object]:
    segment = _choose_clip(corpus)
    detector = load_detector(options.out / POOLINGS[0] / "model.pt")
    return {
        "train_clips": len(corpus.train_clips),
        "evaluation_clips": len(corpus.evaluation_clips),
        "classes": list(corpus.classes.names),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in detector.network.parameters()),
        "channels": options.model_options.get("channels"),
        "gru_width": options.model_options.get("gru_width"),
        "clip_id": segment.clip_id,
        "clip_events": len(corpus.strong.get(segment.clip_id, ())),
        "clip_classes": [corpus.classes.names[label] for label in segment.labels],
    }


def parse() -> DemoOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.demo", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="chooses the number of epochs, before anything runs (default 10)",
    )
    given = parser.parse_args()
    if not 1 <= given.minutes <= 600:
        parser.error(f"--minutes: expected 1 to 600, got {given.minutes:g}")
    return DemoOptions(out=given.out, minutes=given.minutes)


DESCRIPTION = """Mix a corpus of synthetic sounds, train the same network with five poolings on its
weak labels, and compare how well each tags clips and finds events in them. An interrupted demo goes
on where it stopped when the same command is given again."""


if __name__ == "__main__":
    run_command(main)
