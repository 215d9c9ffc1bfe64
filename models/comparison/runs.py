"""The runs of a study: each trained once, measured once, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from milkernels.nn import PowerPool
from models import model_class
from models.checkpoint import write_text
from models.comparison.results import CorpusFacts, RunResult, System
from models.data.corpus import Corpus, open_corpus
from models.data.mixing import RECORD
from models.detection import mean_event_seconds
from models.detector import Detector, load_detector
from models.errors import UserError
from models.evaluation import EvaluationOptions, detect_clips, judged_by, measure
from models.features import PRESETS
from models.median import median_widths
from models.metrics import LOCALISATION
from models.psds import SCENARIOS
from models.run_folder import RunFolder
from models.train import train
from models.train_options import TrainOptions
from models.training_data import CachedFeatures, LoadingOptions, TrainingData, cache_features

OBSERVATIONS = "observations.json"
"""Beside a run's metrics.json: what the study measures besides; written last."""

UNGATED = "ungated_"


@dataclass(frozen=True)
class StudyOptions:
    """A study; `models.compare --help` describes each option.

    Attributes:
        model_options: by network, or by network and pooling as MODEL:POOLING, which goes before.
        training: further options of every run, by their names in `TrainOptions`.
        median: width of a median filter over frames in seconds.
        median_share: the same as a part of the class's mean event in `event_lengths`.
    """

    out: Path
    data: tuple[Path, ...]
    systems: tuple[System, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    features: str | None = None
    model_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    cache_features: bool = True
    median: float = 0.0
    median_share: float | None = None
    event_lengths: Path | None = None

    def train_options(self, data: Path, out: Path, **own: Any) -> TrainOptions:
        """A run's options: those of all runs, and its own."""
        return TrainOptions(data, out, devices="1", **self.training, **own)


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    study: StudyOptions
    data: Path
    system: System
    seed: int

    @property
    def folder(self) -> RunFolder:
        """Where it is kept."""
        name = f"seed-{self.seed}"
        system = self.system
        return RunFolder(
            self.study.out / "runs" / self.data.name / system.model / system.pooling / name
        )

    @property
    def observations(self) -> Path:
        """What the study measured of it."""
        return self.folder.path / OBSERVATIONS

    @property
    def training(self) -> TrainOptions:
        """How it is trained."""
        study = self.study
        return study.train_options(
            self.data,
            self.folder.path,
            model=self.system.model,
            pooling=self.system.pooling,
            features=features_of(study, self.system),
            seed=self.seed,
            model_options=options_of(study, self.system),
        )


class StudyCorpus:
    """A corpus, opened when it is first needed, and its features by preset."""

    def __init__(self, path: Path, study: StudyOptions) -> None:
        self.path = path
        self.study = study
        self.training = study.train_options(path, study.out)
        self._features: dict[str, CachedFeatures] = {}

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus."""
        return open_corpus(self.path, self.training.corpus)

    @cached_property
    def median(self) -> float | list[float]:
        """Width of the median filter in seconds, one or one for each class."""
        study = self.study
        widths = median_widths(
            study.median, study.median_share, study.event_lengths, self.corpus.classes
        )
        return widths if isinstance(widths, float) else list(widths)

    def features(self, preset: str) -> CachedFeatures | None:
        """The features of every clip, where the study holds them in memory."""
        if not self.study.cache_features:
            return None
        if preset not in self._features:
            self._features[preset] = cache_features(
                self.corpus, PRESETS[preset], self.training.workers, self.training.strict
            )
        return self._features[preset]

    def facts(self) -> CorpusFacts:
        """What the report says of it."""
        corpus = self.corpus
        events = [event for clip in corpus.strong.values() for event in clip]
        seconds = mean_event_seconds(events, len(corpus.classes)).tolist() if events else None
        return CorpusFacts(
            self.path.name,
            list(corpus.classes.names),
            seconds,
            _single_snr(self.path / RECORD),
            len(corpus.train_clips),
            len(corpus.evaluation_clips),
        )


def features_of(study: StudyOptions, system: System) -> str:
    """Name of the features that a system is trained on."""
    return study.features or model_class(system.model).features


def options_of(study: StudyOptions, system: System) -> dict[str, Any]:
    """The options that a system's network is built with."""
    given = study.model_options
    return {**given.get(system.model, {}), **given.get(system.key, {})}


def list_runs(study: StudyOptions) -> list[Run]:
    """All runs of a study, seed by seed, so that an early look compares all systems."""
    names = [path.name for path in study.data]
    if len({*names}) < len(names):
        raise UserError(f"--data: expected folders of different names, got {' '.join(names)}")
    return [
        Run(study, data, system, seed)
        for data in study.data
        for seed in study.seeds
        for system in study.systems
    ]


def run_all(study: StudyOptions) -> Iterator[tuple[Run, RunResult]]:
    """Train and measure what is not finished, and read what is."""
    corpora = {path: StudyCorpus(path, study) for path in study.data}
    runs = list_runs(study)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(runs, "runs", unit="run", disable=None))
        for run in bar:
            bar.set_postfix_str(f"{run.data.name}, {run.system}, seed {run.seed}")
            yield run, _finish(run, corpora[run.data])


def _finish(run: Run, corpus: StudyCorpus) -> RunResult:
    finished = run.folder.is_finished() and _observed(run).get("median") == corpus.median
    cache = None if finished else corpus.features(features_of(run.study, run.system))
    # Also checks that a finished run is of these options.
    metrics = train(run.training, corpus.corpus, cache)
    if not finished:
        content = _observe(run, corpus, cache)
        write_text(run.observations, json.dumps(content, indent=2) + "\n")
    observed = _observed(run)
    numbers = {
        name: value
        for name, value in {**metrics, **observed["filtered"]}.items()
        if value is None or (isinstance(value, float) and name != "epochs")
    }
    return RunResult(
        run.data.name,
        run.system,
        run.seed,
        {**numbers, **{f"{UNGATED}{name}": observed["ungated"][name] for name in LOCALISATION}},
        observed["powers"],
    )


def _observed(run: Run) -> dict[str, Any]:
    """What an earlier study measured of the run, if it did."""
    path = run.observations
    if not path.exists():
        return {}
    return {"median": 0.0, "filtered": {}, **json.loads(path.read_text(encoding="utf-8"))}


def _observe(run: Run, corpus: StudyCorpus, cache: CachedFeatures | None) -> dict[str, object]:
    """Localisation without regard to the clip's tags, as in the pooling papers, what the pooling
    learned, and with a median filter over frames the usual localisation again. Wang, Li and Metze
    pool the frames of a segment; here one of them marks it."""
    detector = load_detector(run.folder.model)
    training = run.training
    data = TrainingData(
        corpus.corpus,
        detector.preset,
        LoadingOptions(training.batch_size, training.held_out, training.seed, training.workers),
        cache,
    )
    judged = judged_by(detector, corpus.corpus.strong)
    median = corpus.median

    def measured(names: Sequence[str], how: EvaluationOptions) -> dict[str, object]:
        results = detect_clips(detector, data.evaluation_dataloader(), "frames")
        measures = measure(results, judged, how)
        return {name: measures[name] for name in names}

    filtered = (*LOCALISATION, *SCENARIOS) if np.any(median) else ()
    return {
        "ungated": measured(LOCALISATION, EvaluationOptions(median, gated=False, psds=False)),
        "filtered": measured(filtered, EvaluationOptions(median)) if filtered else {},
        "median": median,
        "powers": powers(detector),
    }


def powers(detector: Detector) -> list[float] | None:
    """Learned exponent of each class; None of another pooling than power."""
    pool = getattr(detector.network, "pool", None)
    return pool.constrained_power().tolist() if isinstance(pool, PowerPool) else None


def _single_snr(record: Path) -> float | None:
    if not record.exists():
        return None
    snr = json.loads(record.read_text(encoding="utf-8"))["options"]["snr"]
    return snr[0] if len({*snr}) == 1 else None
