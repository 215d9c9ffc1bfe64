"""A trained detector measured on its own, and its posteriors for other tools."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from sed_scores_eval.base_modules.io import read_sed_scores

from models import evaluate as program
from models.data.corpus import open_corpus
from models.data.mixing import MixOptions, mix_corpus
from models.data.sampling import held_out_split
from models.detector import load_detector
from models.errors import UserError
from models.evaluate import EvaluateOptions, evaluate_checkpoint
from models.evaluation import ClipResult, detect_clips
from models.scores import save_scores
from models.shard_data import evaluation_loader
from models.train import MEASURES, train
from models.train_options import TrainOptions
from models.training_data import LoadingOptions

NETWORK = {"channels": [2, 2, 4], "gru_width": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix = MixOptions(directory, train=24, evaluation=8, seconds=2.0, events_per_clip=(2, 2))
    mix_corpus(mix, progress=False)
    return directory


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run's folder and what it measured."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"epochs": 1, "batch_size": 8, "held_out": 0.25, "model_options": NETWORK}
    return out, train(TrainOptions(data, out, accelerator="cpu", devices="1", **options))


@pytest.fixture(scope="module")
def evaluated(data, run, tmp_path_factory):
    """The folder that an evaluation wrote, and its measures."""
    out = tmp_path_factory.mktemp("evaluation")
    return out, evaluate_checkpoint(
        EvaluateOptions(run[0], data, out=out / "measures", scores=out / "scores", batch_size=8)
    )


def measures_of(metrics):
    return {name: metrics[name] for name in (*MEASURES, "clips", "classes", "unreadable_clips")}


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    program.main()


def test_a_run_measures_what_training_measured(run, evaluated):
    out, metrics = evaluated
    assert measures_of(metrics) == measures_of(run[1])
    assert json.loads((out / "measures" / "metrics.json").read_text()) == metrics
    assert metrics["split"] == "evaluation"


@pytest.mark.parametrize("name", ["", "model.pt"])
def test_it_prints_what_training_prints(name, data, run, monkeypatch, capsys):
    command(monkeypatch, "--checkpoint", run[0] / name, "--data", data)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"mAP {run[1]['mAP']:.3f}  ")
    assert f"event_f1_macro {run[1]['event_f1_macro']:.3f}" in line


def test_posteriors_of_clips_are_one_table(data, run, evaluated):
    detector = load_detector(run[0] / "model.pt")
    with (evaluated[0] / "scores" / "clips.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["filename", *detector.classes.names]
    corpus = open_corpus(data)
    assert [row["filename"] for row in rows] == [clip.clip_id for clip in corpus.evaluation_clips]
    values = np.array([[float(value) for value in list(row.values())[1:]] for row in rows])
    assert values.shape == (8, 8)
    assert ((values >= 0) & (values <= 1)).all()


def test_sed_scores_eval_reads_the_frames_that_the_detector_found(data, run, evaluated):
    scores = read_sed_scores(evaluated[0] / "scores" / "frames")
    detector, corpus = load_detector(run[0] / "model.pt"), open_corpus(data)
    loading = LoadingOptions(batch_size=8)
    batches = evaluation_loader(
        corpus.evaluation, corpus.classes, detector.preset, loading, unreadable={}
    )
    found = {result.clip_id: result.frame for result in detect_clips(detector, batches, "frames")}
    assert set(scores) == set(found)
    for name, table in scores.items():
        assert list(table) == ["onset", "offset", *corpus.classes.names]
        assert table["onset"].to_list() == pytest.approx([0.1 * i for i in range(20)])
        assert table["offset"].to_list() == pytest.approx([0.1 * i for i in range(1, 21)])
        assert (table.iloc[:, 2:].to_numpy(np.float32) == found[name]).all()


def test_the_held_out_split_is_the_runs_own(data, run, tmp_path):
    options = EvaluateOptions(run[0], data, split="held_out", scores=tmp_path / "scores")
    metrics = evaluate_checkpoint(options)
    clips = open_corpus(data).train_clips
    _, held_out = held_out_split(clips.labels, 0.25, seed=0)
    rows = (tmp_path / "scores" / "clips.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == [clips[i].clip_id for i in held_out.tolist()]
    assert (metrics["split"], metrics["clips"]) == ("held_out", len(held_out))


def test_a_folder_needs_no_more_than_the_evaluation_set(data, run, tmp_path):
    for name in ("eval_segments.csv", "eval_strong.tsv"):
        shutil.copy(data / name, tmp_path)
    (tmp_path / "audio").symlink_to(data / "audio")
    metrics = evaluate_checkpoint(EvaluateOptions(run[0], tmp_path))
    assert measures_of(metrics) == measures_of(run[1])


def test_a_second_evaluation_replaces_its_measures_and_no_other_file(data, run, tmp_path):
    options = EvaluateOptions(run[0], data, out=tmp_path)
    assert evaluate_checkpoint(options) == evaluate_checkpoint(options)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="expected a new folder, found other files"):
        evaluate_checkpoint(options)
    with pytest.raises(UserError, match="expected a new folder, found other files"):
        evaluate_checkpoint(EvaluateOptions(run[0], data, out=run[0]))
    with pytest.raises(UserError, match="expected a new folder for --scores"):
        evaluate_checkpoint(EvaluateOptions(run[0], data, scores=tmp_path))


def test_posteriors_are_there_whole_or_not_at_all(data, run, tmp_path):
    detector = load_detector(run[0] / "model.pt")

    def interrupted():
        yield ClipResult("a", np.zeros(8, np.float32), np.zeros((3, 8)), np.zeros(8), 0.3)
        raise KeyboardInterrupt

    saved = save_scores(interrupted(), tmp_path / "scores", detector.classes, 0.1)
    with pytest.raises(KeyboardInterrupt):
        list(saved)
    assert list(tmp_path.iterdir()) == []


def test_a_clips_name_leads_to_no_other_folder(run, tmp_path):
    detector = load_detector(run[0] / "model.pt")
    clip = ClipResult("../../a", np.zeros(8, np.float32), np.zeros((3, 8)), np.zeros(8), 0.3)
    list(save_scores([clip], tmp_path / "scores", detector.classes, 0.1))
    (file,) = (tmp_path / "scores" / "frames").iterdir()
    assert file.name == "..%2F..%2Fa.tsv"


def test_a_clip_that_cannot_be_read_is_left_out_and_named(data, run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    open_corpus(copy).evaluation_clips[0].path.write_bytes(b"no audio")
    metrics = evaluate_checkpoint(EvaluateOptions(run[0], copy))
    assert (metrics["clips"], metrics["unreadable_clips"]) == (7, 1)
    assert "1 clips could not be read; the first was" in capsys.readouterr().err


def test_a_corpus_of_other_classes_is_refused(data, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    table = copy / "class_labels_indices.csv"
    header, *rows = table.read_text().splitlines()
    swapped = [row.split(",", 1)[1] for row in rows]
    swapped[:2] = swapped[1::-1]
    lines = [f"{index},{row}" for index, row in enumerate(swapped)]
    table.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(UserError, match="8 others"):
        evaluate_checkpoint(EvaluateOptions(run[0], copy))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "training"], "invalid choice: 'training'"),
        (["--batch-size", "0"], "--batch-size: expected a whole number from 1, got 0"),
        (["--median", "-1"], "--median: expected seconds, 0 or more, got -1"),
    ],
)
def test_bad_options_are_answered_in_one_line(arguments, said, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, "--checkpoint", "run", "--data", "corpus", *arguments)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in message
    assert message.count("\n") == 1
