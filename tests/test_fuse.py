"""Averaging posteriors over systems and epochs, and median filters by event length."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from models import fuse as program
from models import predict
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.corpus import open_corpus
from models.data.mixing import MixOptions, mix_corpus
from models.detection import (
    Event,
    ScoredClip,
    filter_frames,
    mean_event_seconds,
    score_segments,
    tune_thresholds,
)
from models.detector import load_detector
from models.errors import UserError
from models.evaluation import ClipResult, Judged, measure, tune_on
from models.fuse import FuseOptions, fuse, mean_result
from models.median import median_widths
from models.train import MEASURES, train
from models.train_options import TrainOptions


def result(clip, frame, name="a"):
    frame = None if frame is None else np.array(frame)[:, None]
    return ClipResult(name, np.array([clip]), frame, np.array([1.0]), 1.0)


def test_posteriors_are_averaged_by_weight():
    fused = mean_result(
        [result(0.9, [0.8, 0.2]), result(0.3, [0.2, 0.2])], [2.0, 1.0], [0.1, 0.1], 0.1
    )
    assert fused.clip == pytest.approx([0.7])
    assert fused.frame[:, 0] == pytest.approx([0.6, 0.2])


def test_frames_of_different_rates_meet_at_their_middles():
    coarse, fine = result(0.5, [0.0, 1.0]), result(0.5, [0.0, 0.0, 0.0, 0.0, 1.0])
    fused = mean_result([coarse, fine], [1.0, 1.0], [0.5, 0.2], 0.2)
    # Middles at 0.1, 0.3, 0.5, 0.7 and 0.9 s: the coarse frame changes at 0.5 s.
    assert fused.frame[:, 0] == pytest.approx([0.0, 0.0, 0.5, 0.5, 1.0])


def test_a_tagger_counts_for_the_clip_alone():
    fused = mean_result([result(0.8, None), result(0.4, [0.2, 0.6])], [1.0, 1.0], [1.0, 0.5], 0.5)
    assert fused.clip == pytest.approx([0.6])
    assert fused.frame[:, 0] == pytest.approx([0.2, 0.6])


def test_runs_that_read_different_clips_are_refused():
    with pytest.raises(UserError, match="a and b: expected the same clips"):
        mean_result([result(0.5, None), result(0.5, None, "b")], [1.0, 1.0], [1.0, 1.0], 1.0)


def test_each_class_has_its_own_median_filter():
    frame = np.array([[0.9, 0.9], [0.1, 0.1], [0.1, 0.1], [0.9, 0.9], [0.8, 0.8]])
    filtered = filter_frames(frame, [0.3, 0.1], 0.1)
    assert filtered[:, 0] == pytest.approx([0.1, 0.1, 0.1, 0.8, 0.8])
    assert filtered[:, 1] == pytest.approx(frame[:, 1])
    # A threshold may come before or after.
    assert ((filtered >= 0.5) == filter_frames(frame >= 0.5, [0.3, 0.1], 0.1)).all()


def test_mean_event_lengths_are_by_class_and_of_all_for_a_class_without():
    events = [Event(0, 1, 0, 1.0), Event(2, 5, 0, 1.0), Event(0, 5, 2, 1.0)]
    assert mean_event_seconds(events, 3) == pytest.approx([2.0, 3.0, 5.0])


def test_frame_thresholds_are_tuned_on_segments():
    # Two frames a second. Segments' largest: 0.4 (true), 0.9 (true), 0.3; one event over both.
    frame = np.array([0.1, 0.4, 0.9, 0.2, 0.3, 0.1])[:, None]
    clip = ScoredClip(frame, [Event(0.5, 1.5, 0, 1.0)], 3.0)
    probability, true = score_segments(clip, 0.5)
    assert probability[:, 0] == pytest.approx([0.4, 0.9, 0.3])
    assert tune_thresholds(probability, true) == pytest.approx([0.35])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix_corpus(MixOptions(directory, train=24, evaluation=6, seconds=1.0), progress=False)
    return directory


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def run(name, **options):
        common = {"epochs": 2, "batch_size": 8, "held_out": 0.25, "keep_epochs": 1}
        network = {"channels": [2, 2, 4], "gru_width": 4}
        where = {"accelerator": "cpu", "devices": "1"}
        train(TrainOptions(data, folder / name, model_options=network, **where, **common | options))
        return folder / name

    return {
        "mean": run("mean", pooling="mean", epochs=3, keep_epochs=2),
        "max": run("max", pooling="max"),
        "seed": run("seed", pooling="max", seed=1),
    }


def test_the_last_epochs_are_kept(runs):
    kept = sorted(path.name for path in (runs["mean"] / "epochs").iterdir())
    assert kept == ["epoch-0002.pt", "epoch-0003.pt"]
    last = load_detector(runs["mean"] / "epochs" / "epoch-0003.pt").state_dict()
    final = load_detector(runs["mean"] / "model.pt").state_dict()
    assert all((last[name] == final[name]).all() for name in last if "thresholds" not in name)


def test_one_run_is_measured_as_its_training_did(runs, data, tmp_path):
    metrics = fuse(FuseOptions((runs["max"],), data, tmp_path / "out"))
    trained = json.loads((runs["max"] / "metrics.json").read_text())
    assert {name: metrics[name] for name in MEASURES} == pytest.approx(
        {name: trained[name] for name in MEASURES}
    )
    assert metrics["classes"] == [pytest.approx(row) for row in trained["classes"]]


def test_a_fusion_of_runs_and_epochs_is_written_beside_the_runs_own_measures(runs, data, tmp_path):
    options = FuseOptions((runs["mean"], runs["max"]), data, tmp_path / "out", over_epochs=True)
    metrics = fuse(options)
    assert json.loads((options.out / "metrics.json").read_text()) == metrics
    assert [row["detectors"] for row in metrics["runs"]] == [2, 1]
    assert set(metrics["runs"][0]["measures"]) == set(MEASURES)
    assert metrics["thresholds"] == "tuned on the clips that the runs held out"


def test_runs_that_held_out_different_clips_lend_their_thresholds(runs, data, tmp_path):
    folders = runs["max"], runs["seed"]
    metrics = fuse(FuseOptions(folders, data, tmp_path / "out", weights=(3.0, 1.0)))
    own = [load_detector(folder / "model.pt").thresholds.numpy() for folder in folders]
    found = [row["threshold"] for row in metrics["classes"]]
    assert found == pytest.approx((0.75 * own[0] + 0.25 * own[1]).tolist())
    assert metrics["thresholds"] == "means of the runs' own"


def test_what_cannot_be_fused_is_named(runs, data, tmp_path):
    with pytest.raises(UserError, match="expected the folder of a finished run"):
        fuse(FuseOptions((tmp_path,), data, tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="found other files"):
        fuse(FuseOptions((runs["max"],), data, tmp_path / "out"))


def test_a_run_of_other_classes_is_named(runs, data, tmp_path, monkeypatch):
    detector = load_detector(runs["max"] / "model.pt")
    detector.classes = ClassList(("/m/1",), ("One",))
    monkeypatch.setattr(program, "load_detector", lambda *_: detector)
    with pytest.raises(UserError, match="expected a run of this corpus's 8 classes, found 1"):
        fuse(FuseOptions((runs["max"],), data, tmp_path / "out"))


def test_a_median_without_event_lengths_is_the_same_for_all_classes():
    assert median_widths(0.2, None, None, ClassList(("/m/1",), ("One",))) == 0.2


AUDIOSET = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nx_0\t1.0\t4.0\t/m/1\n"
EVENT_LISTS = {
    "audioset.tsv": AUDIOSET,
    "desed.tsv": "filename\tonset\toffset\tevent_label\nx.wav\t1.0\t4.0\tOne\ny.wav\t\t\t\n",
    "audioset/train_strong.tsv": AUDIOSET,
    "desed/metadata/train/soundscapes.tsv": (
        "filename\tonset\toffset\tevent_label\nx.wav\t1.0\t4.0\tOne\nx.wav\t0\t9\tOther\n"
    ),
    "desed/metadata/train/weak.tsv": "filename\tevent_labels\nz.wav\tOne,Two\n",
    "desed/metadata/validation/validation.tsv": (
        "filename\tonset\toffset\tevent_label\nx.wav\t0.0\t0.1\tOne\n"
    ),
}


@pytest.fixture
def event_lists(tmp_path):
    """Strong labels in files and in corpus folders, and folders without any for training."""
    for name, text in EVENT_LISTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["audioset.tsv", "desed.tsv", "audioset", "desed"])
def test_event_lengths_come_from_a_list_of_either_kind_or_a_corpus(name, event_lists):
    classes = ClassList(("/m/1", "/m/2"), ("One", "Two"))
    assert median_widths(0.0, 0.5, event_lists / name, classes) == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "empty: expected events of training clips of the detector's classes, found none"),
        ("desed/metadata/train/weak.tsv", r"weak\.tsv: expected a strong list, filename onset"),
        ("gone.tsv", r"gone\.tsv: expected a file, found nothing there"),
    ],
)
def test_event_lengths_of_nothing_are_refused(name, message, event_lists):
    with pytest.raises(UserError, match=message):
        median_widths(0.0, 0.5, event_lists / name, ClassList(("/m/1",), ("One",)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--median-share", "0.3"], "expected both or neither"),
        (["--median", "-1"], "--median: expected seconds"),
        (["--median", "1", "--median-share", "1", "--event-lengths", "x"], "expected one of them"),
    ],
)
@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (program, ["--runs", "r", "--data", "d", "--out", "o"]),
        (predict, ["--checkpoint", "c", "audio"]),
    ],
)
def test_bad_median_options_are_one_line(command, needed, arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", *needed, *arguments])
    with pytest.raises(SystemExit):
        command.parse()
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def heard_for_two_seconds(*target):
    """A clip of which two seconds were heard, and the frames 0.5 s apart of a perfect detector."""
    frame = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]], dtype=float)
    return ClipResult("a", np.array([1.0, 0.3, 1.0]), frame, np.array(target, dtype=float), 2.0)


AFTER_THE_END = [
    StrongLabel("a", 0.0, 1.0, 0),
    StrongLabel("a", 2.5, 3.0, 0),
    StrongLabel("a", 2.0, 3.0, 1),
    StrongLabel("a", 1.0, 3.0, 2),
]


def test_what_is_true_after_the_heard_part_counts_in_no_measure():
    classes = ClassList(("/m/0", "/m/1", "/m/2"), ("Zero", "One", "Two"))

    def measured(target, events):
        half = np.full(3, 0.5)
        judged = Judged(classes, half, half, 0.5, {"a": events})
        return measure([heard_for_two_seconds(*target)], judged)

    heard = [AFTER_THE_END[0], StrongLabel("a", 1.0, 2.0, 2)]
    found = measured((1, 1, 1), AFTER_THE_END)
    assert found == measured((1, 0, 1), heard)
    for name in ("mAP", "clip_f1", "segment_f1", "event_f1", "event_f1_macro", "psds_1"):
        assert found[name] == pytest.approx(1.0), name


def test_thresholds_are_tuned_on_what_is_true_of_the_heard_part():
    strong = {"a": AFTER_THE_END}
    tuned = tune_on([heard_for_two_seconds(1, 1, 1)], 0.5, strong)
    heard = {"a": [AFTER_THE_END[0], StrongLabel("a", 1.0, 2.0, 2)]}
    expected = tune_on([heard_for_two_seconds(1, 0, 1)], 0.5, heard)
    assert np.array(tuned).tolist() == np.array(expected).tolist()


def test_frames_have_thresholds_of_their_own_where_held_out_events_are_known():
    # Two frames a second: an event of the first second, and a second without.
    frame = [0.4, 0.3, 0.2, 0.1]
    results = [replace(result(0.9, frame), seconds=2.0)]
    thresholds, frame_thresholds = tune_on(results, 0.5, {"a": [Event(0, 1, 0, 1.0)]})
    assert thresholds == pytest.approx([0.45])
    assert frame_thresholds == pytest.approx([0.3])
    assert [one.tolist() for one in tune_on(results, 0.5)] == [thresholds.tolist()] * 2


def test_tuning_frames_needs_events_of_training_clips(data, tmp_path):
    with pytest.raises(UserError, match="for --tune-frames"):
        train(TrainOptions(data, tmp_path / "run", tune_frames=True))


def test_training_tunes_frames_on_events_of_held_out_clips(data, runs, tmp_path):
    corpus = open_corpus(data)
    events = {clip.clip_id: [Event(0, 0.3, clip.labels[0], 1.0)] for clip in corpus.train}
    corpus = replace(corpus, train_strong=events)
    config = json.loads((runs["max"] / "config.json").read_text())
    names = ("epochs", "batch_size", "held_out", "model_options", "pooling")
    options = {name: config[name] for name in names}
    metrics = train(
        TrainOptions(
            data, tmp_path / "run", tune_frames=True, accelerator="cpu", devices="1", **options
        ),
        corpus,
    )
    trained = json.loads((runs["max"] / "metrics.json").read_text())
    assert [row["threshold"] for row in metrics["classes"]] == pytest.approx(
        [row["threshold"] for row in trained["classes"]]
    )
    assert all(row["threshold"] == row["frame_threshold"] for row in trained["classes"])
    assert any(row["threshold"] != row["frame_threshold"] for row in metrics["classes"])
