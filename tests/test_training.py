"""Training: what a run writes, that it repeats, and that nothing stops it for good."""

import csv
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import train as program
from models.checkpoint import write_atomically, write_text
from models.data.classes import ClassList
from models.data.corpus import open_corpus
from models.data.mixing import MixOptions, mix_corpus
from models.data.segments import SegmentList
from models.detector import load_detector
from models.errors import UserError, run_command
from models.feature_cache import FeatureClips, collate_features
from models.features import PRESETS, FrontEnd
from models.run_folder import read_history
from models.train import MEASURES, TrainOptions, train

NETWORK = {"channels": [4, 4, 8], "gru_width": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix_corpus(MixOptions(directory, train=24, evaluation=8, seconds=2.0), progress=False)
    return directory


@pytest.fixture(scope="module")
def corpus(data):
    return open_corpus(data)


def options(data, out, **changes):
    common = {"epochs": 2, "batch_size": 8, "held_out": 0.25, "model_options": NETWORK}
    return TrainOptions(data, out, accelerator="cpu", devices="1", **{**common, **changes})


def arguments(data, out, *more):
    return [
        *("--data", str(data), "--out", str(out), "--batch-size", "8", "--held-out", "0.25"),
        *("--accelerator", "cpu", "--devices", "1"),
        *(f"--model-option={name}={json.dumps(value)}" for name, value in NETWORK.items()),
        *more,
    ]


def without_time(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.fixture(scope="module")
def finished(data, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    return out, train(options(data, out), corpus)


def test_a_run_writes_measures_options_history_and_model(finished, corpus):
    out, metrics = finished
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert set(MEASURES) <= set(metrics)
    assert [row["mid"] for row in metrics["classes"]] == list(corpus.classes.mids)
    assert json.loads((out / "config.json").read_text())["pooling"] == "linear_softmax"
    assert [row["epoch"] for row in read_history(out / "history.csv")] == [1, 2]
    assert not list(out.glob("*.part"))


def test_the_model_file_holds_no_code(finished, corpus):
    out, metrics = finished
    content = torch.load(out / "model.pt", weights_only=True)
    assert content["mids"] == list(corpus.classes.mids)
    detector = load_detector(out / "model.pt")
    thresholds = [row["threshold"] for row in metrics["classes"]]
    assert detector.thresholds.tolist() == pytest.approx(thresholds)
    assert detector.front_end.std.min() > 0


def test_a_seed_repeats_bit_for_bit(finished, data, corpus, tmp_path):
    out, metrics = finished
    assert train(options(data, tmp_path / "again"), corpus) == metrics
    states = [load_detector(run / "model.pt").state_dict() for run in (out, tmp_path / "again")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_determinism_does_not_cost_a_fill_of_all_new_memory(data, corpus, tmp_path):
    train(options(data, tmp_path, epochs=1, epoch_batches=1), corpus)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_another_seed_gives_another_result(finished, data, corpus, tmp_path):
    _, metrics = finished
    assert train(options(data, tmp_path / "run", seed=1), corpus) != metrics


@pytest.mark.parametrize(
    "change",
    [{"mixup": 1.0}, {"spec_augment": True}, {"time_shift": 16.0}, {"balancing": "ratio"}],
)
def test_changes_of_the_clips_and_their_balance_decide_the_result(
    change, finished, data, corpus, tmp_path
):
    out, _ = finished
    train(options(data, tmp_path / "run", **change), corpus)
    losses = [
        [row["train_loss"] for row in read_history(run / "history.csv")]
        for run in (out, tmp_path / "run")
    ]
    assert losses[0] != losses[1]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: config[name] for name in change} == change


def test_thresholds_do_not_depend_on_the_evaluation_clips(finished, data, corpus, tmp_path):
    out, _ = finished
    fewer = dataclasses.replace(corpus, evaluation=corpus.evaluation[:3])
    assert train(options(data, tmp_path / "run"), fewer)["clips"] == 3
    before, after = (load_detector(run / "model.pt") for run in (out, tmp_path / "run"))
    assert torch.equal(before.thresholds, after.thresholds)


def test_a_run_stopped_in_its_evaluation_goes_on(finished, data, corpus, tmp_path):
    _, metrics = finished
    train(options(data, tmp_path / "run"), corpus)
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "model.pt").unlink()
    assert train(options(data, tmp_path / "run"), corpus) == metrics


def test_a_run_interrupted_and_killed_ends_as_if_it_had_not_been(data, corpus, tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    given = ("--epochs", "8", "--learning-rate", "0.05", "--patience", "0")
    command = arguments(data, stopped, *given)
    status, message = _stop(command, stopped, 1, signal.SIGINT)
    assert status == 130
    assert f"of 8 epochs are in {stopped}" in message
    assert message.splitlines()[-1].startswith("interrupted: run the same command again")
    status, _ = _stop(command, stopped, 4, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not (stopped / "metrics.json").exists()
    decaying = {"epochs": 8, "learning_rate": 0.05, "patience": 0}
    metrics = [train(options(data, out, **decaying), corpus) for out in (stopped, whole)]
    assert metrics[0] == metrics[1]
    histories = [without_time(read_history(run / "history.csv")) for run in (stopped, whole)]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == list(range(1, 9))
    assert histories[0][-1]["learning_rate"] < 0.05


def _stop(command, out, epochs, number):
    """Run the program and send it a signal after so many epochs; exit status and stderr."""
    messages, history = out.with_name("messages.txt"), out / "history.csv"
    process = multiprocessing.get_context("fork").Process(target=_main, args=(command, messages))
    process.start()
    while process.is_alive():
        if history.exists() and len(history.read_text().splitlines()) > epochs:
            os.kill(process.pid, number)
            break
        time.sleep(0.01)
    process.join()
    return process.exitcode, messages.read_text()


def _main(command, messages):
    sys.argv = ["train", *command]
    with messages.open("w", buffering=1) as sys.stderr:
        run_command(program.main)


def test_a_finished_run_says_so(finished, data, monkeypatch, capsys):
    out, _ = finished
    monkeypatch.setattr(sys, "argv", ["train", *arguments(data, out, "--epochs", "2")])
    program.main()
    assert "finished already" in capsys.readouterr().out


def test_a_folder_of_other_options_is_in_use(finished, data, corpus):
    out, _ = finished
    with pytest.raises(UserError, match=r"in use.*pooling linear_softmax there and max here"):
        train(options(data, out, pooling="max"), corpus)


def test_a_folder_of_other_files_is_not_touched(data, corpus, tmp_path):
    write_text(tmp_path / "notes.txt", "mine")
    with pytest.raises(UserError, match="other files"):
        train(options(data, tmp_path), corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_another_class_list_is_refused(finished, data, corpus):
    out, _ = finished
    mids = ("/m/other", *corpus.classes.mids[1:])
    other = dataclasses.replace(corpus, classes=ClassList(mids, corpus.classes.names))
    with pytest.raises(UserError, match=r"another class list.*class 0 is .* there and /m/other"):
        train(options(data, out), other)
    fewer = ClassList(corpus.classes.mids[:-1], corpus.classes.names[:-1])
    with pytest.raises(UserError, match="8 classes there and 7 here"):
        train(options(data, out), dataclasses.replace(corpus, classes=fewer))


def test_a_broken_checkpoint_is_named(data, corpus, tmp_path):
    run = tmp_path / "run"
    train(options(data, run, epochs=1), corpus)
    (run / "metrics.json").unlink()
    (run / "last.ckpt").write_bytes(b"PK broken")
    with pytest.raises(UserError, match=r"last\.ckpt.*delete it"):
        train(options(data, run, epochs=1), corpus)


def test_options_that_fit_no_network_claim_no_folder(data, corpus, tmp_path):
    with pytest.raises(UserError, match="kernel_size"):
        train(options(data, tmp_path / "run", model_options={"kernel_size": 3}), corpus)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mels", [128, "64"])
def test_a_network_of_other_bands_than_the_features_is_refused_before_anything_is_written(
    mels, data, corpus, tmp_path
):
    changes = {"model_options": {**NETWORK, "mels": mels}}
    message = rf"mels: expected 64, the bands of the features dcase2017, got '?{mels}"
    with pytest.raises(UserError, match=message):
        train(options(data, tmp_path / "run", **changes), corpus)
    assert not (tmp_path / "run").exists()


def test_devices_that_are_not_there_are_refused(data, corpus, tmp_path):
    none = dataclasses.replace(options(data, tmp_path / "run"), devices="0")
    with pytest.raises(UserError, match="--devices 0"):
        train(none, corpus)


def test_an_unreadable_clip_is_left_out_and_named_or_stops_the_run(data, corpus, tmp_path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    first = dataclasses.replace(corpus.train[0], path=broken)
    segments = SegmentList.of([first, *corpus.train[1:]], len(corpus.classes))
    changed = dataclasses.replace(corpus, train=segments)
    with pytest.raises(UserError, match=r"broken\.wav.*--strict"):
        train(options(data, tmp_path / "run", epochs=1, strict=True), changed)
    metrics = train(options(data, tmp_path / "run", epochs=1), changed)
    assert (metrics["clips"], metrics["unreadable_clips"]) == (8, 1)
    assert "broken.wav" in (tmp_path / "run" / "unreadable.tsv").read_text()
    assert f"1 clips could not be read, all named in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--epochs", "0"), "--epochs: expected a whole number from 1, got 0"),
        (("--learning-rate", "-1"), "--learning-rate: expected a number above 0, got -1"),
        (("--held-out", "1"), "--held-out: expected a number above 0 and below 1, got 1"),
        (("--model-option", "gru_width"), "--model-option: expected NAME=VALUE, got gru_width"),
        (("--pooling", "median"), "linear_softmax"),
    ],
)
def test_bad_options_are_answered_in_one_line(given, said, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", *arguments(data, tmp_path / "run", *given)])
    with pytest.raises(SystemExit) as stop:
        program.main()
    message = capsys.readouterr().err
    assert stop.value.code != 0
    assert said in message
    assert message.count("\n") == 1


def test_cached_features_are_those_of_the_waveform(data, corpus, tmp_path):
    clips = FeatureClips(corpus.train[:3], 8, PRESETS["dcase2017"])
    batch = collate_features([clips[index] for index in range(3)])
    assert batch.seconds == (2.0, 2.0, 2.0)
    assert batch.features.shape == (3, 80, 64)
    cached = train(options(data, tmp_path / "cached", epochs=1, cache_features=True), corpus)
    waveforms = train(options(data, tmp_path / "waveforms", epochs=1), corpus)
    assert cached["mAP"] == pytest.approx(waveforms["mAP"], abs=0.05)
    first, second = (
        FrontEnd(PRESETS["dcase2017"]),
        FrontEnd(PRESETS["dcase2017"]),
    )
    for front_end, run in ((first, "cached"), (second, "waveforms")):
        state = torch.load(tmp_path / run / "model.pt", weights_only=True)["state"]
        front_end.mean.copy_(state["front_end.mean"])
    torch.testing.assert_close(first.mean, second.mean)


def test_cached_features_leave_out_what_cannot_be_read(data, corpus, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    first = dataclasses.replace(corpus.train[0], path=broken)
    segments = SegmentList.of([first, *corpus.train[1:]], len(corpus.classes))
    changed = dataclasses.replace(corpus, train=segments)
    clips = FeatureClips(segments[:3], 8, PRESETS["dcase2017"])
    assert "broken.wav" in clips[0].reason
    assert clips[2].clip_id == corpus.train[2].clip_id
    assert len(collate_features([clips[0]])) == 0
    assert collate_features([clips[0], clips[1]]).clip_ids == (corpus.train[1].clip_id,)
    cached = {"epochs": 1, "cache_features": True}
    with pytest.raises(UserError, match=r"broken\.wav.*--strict"):
        train(options(data, tmp_path / "run", strict=True, **cached), changed)
    assert train(options(data, tmp_path / "run", **cached), changed)["unreadable_clips"] == 1


@pytest.mark.parametrize("part", ["train", "evaluation"])
@pytest.mark.parametrize("cache", [False, True])
def test_clips_none_of_which_can_be_read_are_named(part, cache, data, corpus, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    clips = getattr(corpus, part)
    segments = [dataclasses.replace(clip, path=broken) for clip in clips]
    replaced = {part: SegmentList.of(segments, len(corpus.classes))}
    changed = dataclasses.replace(corpus, **replaced)
    skipping = options(data, tmp_path / "run", epochs=1, cache_features=cache)
    name = {"train": "training", "evaluation": "evaluation"}[part]
    with pytest.raises(UserError, match=f"none of .* {name} clips can be read"):
        train(skipping, changed)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensorboard_has_the_curves(finished):
    out, _ = finished
    curves = EventAccumulator(str(out / "tensorboard")).Reload()
    history = read_history(out / "history.csv")
    for name in ("train_loss", "held_out_loss", "held_out_mAP", "learning_rate"):
        values = [point.value for point in curves.Scalars(name)]
        assert values == pytest.approx([row[name] for row in history])


def test_the_history_is_a_table(finished):
    out, _ = finished
    with (out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {
        "epoch",
        "train_loss",
        "held_out_loss",
        "held_out_mAP",
        "learning_rate",
        "seconds",
    }
