"""A study: its claims follow from its results, and finished runs are kept."""

import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from models import compare as program
from models.comparison.claims import CLAIMS, direction, judge, together
from models.comparison.published import TABLES
from models.comparison.report import (
    claims_table,
    measures_table,
    read_results,
    to_markdown,
)
from models.comparison.results import CorpusFacts, Mean, Results, RunResult, System, mean_of
from models.comparison.runs import StudyOptions, list_runs, options_of
from models.comparison.two_step_pictures import draw_two_step
from models.comparison.weights import look_inside
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.mixing import MixOptions, mix_corpus
from models.detector import Detector, DetectorSpec
from models.errors import UserError
from models.train_options import TrainOptions

CORPUS = CorpusFacts("mixed", ["a", "b", "c", "d", "e"], [0.5, 1.0, 2.0, 4.0, 8.0], None, 10, 10)


def crnn(pooling):
    return System("dcase2017_crnn", pooling)


def results_of(measure, **values):
    """Runs of poolings with the values of one measure, seed by seed."""
    runs = [
        RunResult("mixed", crnn(pooling), seed, {measure: value})
        for pooling, row in values.items()
        for seed, value in enumerate(row)
    ]
    return Results(runs, [CORPUS])


def finding(key, results):
    """The only finding of a claim."""
    (one,) = next(findings for claim, findings in judge(results) if claim.key == key)
    return one


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        # Of three differences the 95 % interval is 2.48 deviations wide on either side.
        ((0.30, 0.31, 0.32), "holds"),
        ((-0.30, -0.31, -0.32), "does not hold"),
        ((0.02, 0.01, 0.03), "undecided"),
        ((0.03, 0.02, 0.04), "holds"),
        ((0.3,), "undecided"),
        ((0.0, 0.0, 0.0), "undecided"),
    ],
)
def test_a_difference_counts_where_the_seeds_cannot_explain_it(values, verdict):
    assert direction(mean_of(values)) == verdict


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["holds", "not tested"], "undecided"),
        (["undecided", "does not hold"], "does not hold"),
    ],
)
def test_a_claim_of_several_parts_holds_with_all_and_falls_with_one(verdicts, verdict):
    assert together(verdicts) == verdict


def test_seeds_are_compared_in_pairs():
    # The seeds differ by far more than the poolings do, but each alike.
    results = results_of(
        "event_recall_macro", power=(0.2, 0.5, 0.8), linear_softmax=(0.1, 0.41, 0.7)
    )
    found = finding("power_recalls_more", results)
    assert found.verdict == "holds"
    assert "+0.097 ± 0.006" in found.evidence


def test_lower_is_better_of_an_error_rate():
    others = dict.fromkeys(("max", "mean", "exp_softmax", "attention"), (0.9, 0.91))
    results = results_of("ungated_segment_er", linear_softmax=(0.5, 0.51), **others)
    assert finding("linear_softmax_localises_best", results).verdict == "holds"
    results = results_of("ungated_segment_er", linear_softmax=(0.99, 1.0), **others)
    assert finding("linear_softmax_localises_best", results).verdict == "does not hold"


def test_a_claim_about_poolings_that_were_not_run_does_not_hold_yet():
    results = results_of("ungated_segment_er", linear_softmax=(0.5, 0.51), max=(0.9, 0.91))
    assert finding("linear_softmax_localises_best", results).verdict == "undecided"


@pytest.mark.parametrize(
    ("powers", "verdict"),
    [
        ([3.0, 2.0, 1.5, 1.0, 0.5], "holds"),
        ([0.5, 1.0, 1.5, 2.0, 3.0], "does not hold"),
        ([1.0, 2.0, 0.5, 3.0, 1.5], "undecided"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "undecided"),
    ],
)
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_powers_are_ranked_against_durations(powers, verdict):
    run = RunResult("mixed", crnn("power"), 0, {}, powers)
    assert finding("powers_fall_with_duration", Results([run], [CORPUS])).verdict == verdict


def test_the_lead_of_two_step_attention_is_compared_over_noise():
    corpora = [CorpusFacts(f"snr{snr}", ["a"], None, snr, 1, 1) for snr in (0.0, 20.0)]
    values = {
        ("snr0.0", "two_step_autoencoder", "two_step_attention"): (0.70, 0.71),
        ("snr0.0", "atrous_cnn", "attention"): (0.50, 0.51),
        ("snr20.0", "two_step_autoencoder", "two_step_attention"): (0.80, 0.81),
        ("snr20.0", "atrous_cnn", "attention"): (0.75, 0.76),
    }
    runs = [
        RunResult(corpus, System(model, pooling), seed, {"micro_AP": value})
        for (corpus, model, pooling), row in values.items()
        for seed, value in enumerate(row)
    ]
    found = finding("two_step_leads_more_in_noise", Results(runs, corpora))
    assert "+0.200 ± 0.000 at 0 dB and +0.050 ± 0.000 at 20 dB" in found.evidence
    assert found.verdict == "holds"


def test_claims_that_nothing_was_run_for_are_not_tested():
    judged = judge(Results([], [CORPUS]))
    assert [findings for _, findings in judged] == [[]] * len(CLAIMS)
    assert all("not tested" in row for row in claims_table(judged)[2:])


def test_every_published_row_has_a_value_for_each_measure():
    assert all(len(row) == len(one.measures) for one in TABLES for row in one.rows.values())


def test_the_best_mean_of_a_column_is_bold():
    results = results_of("ungated_segment_er", max=(0.9, 0.7), power=(0.6, 0.5))
    header, _, *rows = measures_table(results, "mixed")
    assert header == "|  | segment ER |"
    assert rows == ["| max | 0.800 ± 0.141 |", "| power | **0.550 ± 0.071** |"]


def test_a_mean_of_one_seed_has_no_spread():
    assert str(mean_of([0.5, None])) == "0.500"
    assert mean_of([None]) is None
    assert mean_of([0.5, 0.7]) == Mean(0.6, pytest.approx(0.1414, abs=1e-4), 2)


NAMES = ("Dog", "Cat", "Cow")


def untrained(model, pooling=None, **options):
    torch.manual_seed(0)
    spec = DetectorSpec(model, pooling, "dcase2017", options)
    return Detector(spec, ClassList(NAMES, NAMES)).eval()


@pytest.mark.parametrize("normalize", ["frames", "classes"])
def test_attention_is_shown_by_its_weights(normalize):
    options = {"channels": [2, 2, 4], "gru_width": 4, "pooling_options": {"normalize": normalize}}
    inside = look_inside(untrained("dcase2017_crnn", "attention", **options), torch.randn(16000))
    assert inside.attention.shape == inside.frame.shape == (10, 3)
    assert inside.attention.sum(0) == pytest.approx(1, abs=1e-5)
    # They are what the clip's probability is made with.
    assert (inside.attention * inside.frame).sum(0) == pytest.approx(inside.clip, abs=1e-5)


def test_attention_over_cells_is_shown_by_the_weights_of_a_frames_bands():
    detector = untrained("atrous_cnn", "attention", channels=[2, 2, 2], mels=64)
    inside = look_inside(detector, torch.randn(16000))
    assert inside.attention.shape == inside.frame.shape
    assert inside.attention.sum(0) == pytest.approx(1, abs=1e-5)


def test_each_head_of_attention_statistics_is_shown_by_its_weights():
    detector = untrained("gmap_cnn", "gmap", channels=[2, 2, 4, 8], hidden_width=4)
    inside = look_inside(detector, torch.randn(16000))
    assert inside.frame is None
    assert inside.heads.shape == (3, 4)
    assert inside.heads.sum(0) == pytest.approx(1, abs=1e-5)


def test_two_step_attention_is_drawn_step_by_step(tmp_path):
    detector = untrained("two_step_autoencoder", channels=[2, 2, 2, 4])
    events = [StrongLabel("a_0", 0.2, 0.5, 1)]
    draw_two_step(tmp_path / "a.png", detector, torch.randn(16000), (1, 2), events, "a")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    mix = MixOptions(folder / "mixed", train=16, evaluation=4, seconds=1.0, events_per_clip=(2, 2))
    mix_corpus(mix, progress=False)
    options = StudyOptions(
        out=folder / "out",
        data=(mix.out,),
        systems=(crnn("attention"), crnn("linear_softmax"), crnn("power")),
        seeds=(0,),
        model_options={"dcase2017_crnn": {"channels": [2, 2, 4], "gru_width": 4}},
        training={"epochs": 1, "batch_size": 8, "accelerator": "cpu"},
    )
    return options, program.compare(options)


def test_a_study_leaves_a_report_its_results_and_pictures(study):
    options, results = study
    assert [run.system for run in results.runs] == list(options.systems)
    content = json.loads((options.out / "results.json").read_text())
    assert [claim["key"] for claim in content["claims"]] == [claim.key for claim in CLAIMS]
    assert len(content["runs"]) == 3
    report = (options.out / "report.md").read_text()
    assert all(claim.statement in report for claim in CLAIMS)
    pictures = {path.name for path in options.out.glob("*.png")}
    assert pictures == {
        "measures_mixed.png",
        "powers_mixed.png",
        "thresholds_mixed_dcase2017_crnn.png",
        "attention_mixed_dcase2017_crnn.png",
    }


def test_power_alone_has_powers_and_every_run_has_frames_of_untagged_classes(study):
    _, results = study
    by_pooling = {run.system.pooling: run for run in results.runs}
    assert [name for name, run in by_pooling.items() if run.powers] == ["power"]
    assert len(by_pooling["power"].powers) == 8
    assert all(run.measures["ungated_segment_er"] >= 0 for run in results.runs)


def test_a_second_study_trains_nothing_and_reports_the_same(study, monkeypatch):
    options, results = study
    reports = (options.out / "report.md").read_text()
    monkeypatch.setattr("models.comparison.runs.cache_features", None)
    assert program.compare(options) == results
    assert (options.out / "report.md").read_text() == reports


def test_a_folder_of_other_files_is_not_touched(study, tmp_path):
    options, _ = study
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        program.compare(StudyOptions(tmp_path, options.data, options.systems))
    assert (tmp_path / "report.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1", "1"], "different"),
        (["--epochs", "0"], "--epochs: expected a whole number from 1, got 0"),
        (
            ["--batch-size", "9", "--mean-teacher", "2", "2", "4"],
            "--batch-size 9: expected 8, the clips of --mean-teacher 2 2 4",
        ),
        (["--median", "-1"], "--median: expected seconds, 0 or more"),
        (["--systems", "none:max"], "expected one of dcase2017_crnn"),
        (["--model-option", "talnet:heads=2"], "got one of talnet"),
    ],
)
def test_bad_options_are_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", "--data", "a", "--out", "b", *arguments])
    with pytest.raises(SystemExit):
        program.parse()
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_every_option_of_training_reaches_every_run(monkeypatch):
    given = {
        "mean_teacher": ((2, 2, 4), ["2", "2", "4"]),
        "balancing": ("ratio", ["ratio"]),
        "patience": (7, ["7"]),
        "factor": (0.8, ["0.8"]),
        "time_shift": (16.0, ["16"]),
        "spec_augment": (True, []),
        "tune_frames": (True, []),
        "keep": ("best", ["best"]),
        "held_out": (0.2, ["0.2"]),
        "consistency": (1.0, ["1"]),
        "normalisation_clips": (5, ["5"]),
        "epoch_batches": (3, ["3"]),
        "precision": ("32", ["32"]),
        "keep_epochs": (2, ["2"]),
    }
    words = []
    for name, (_, values) in given.items():
        words += [f"--{name.replace('_', '-')}", *values]
    monkeypatch.setattr(sys, "argv", ["compare", "--data", "a", "--out", "b", *words])
    runs = list_runs(program.parse())
    assert len(runs) == 7 * 3
    for run in runs:
        assert {name: getattr(run.training, name) for name in given} == {
            name: value for name, (value, _) in given.items()
        }
        assert run.training.batch_size == 8


def test_a_study_takes_what_training_takes(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "--data", "a", "--out", "b"])
    own = {"data", "out", "model", "pooling", "features", "seed", "model_options"}
    one_process = {"devices", "nodes", "cache_features"}
    taken = {*program.parse().training, *own, *one_process}
    assert taken == {entry.name for entry in fields(TrainOptions)}


def test_a_finished_study_does_not_go_on_with_other_training(study):
    options, _ = study
    other = replace(options, training={**options.training, "patience": 9})
    with pytest.raises(UserError, match=r"in use.*\(patience 3 there and 9 here"):
        program.compare(other)


def test_a_median_filter_is_applied_to_finished_runs(study, tmp_path):
    options, results = study
    out = tmp_path / "out"
    shutil.copytree(options.out, out)
    options = replace(options, out=out)
    filtered = program.compare(replace(options, median=1.0))
    for before, after in zip(results.runs, filtered.runs, strict=True):
        assert after.measures["mAP"] == before.measures["mAP"]
        assert after.measures.keys() == before.measures.keys()
    changed = ("segment_f1", "ungated_segment_f1")
    for name in changed:
        assert [run.measures[name] for run in filtered.runs] != [
            run.measures[name] for run in results.runs
        ]
    assert '"median": "1.0"' in (out / "report.md").read_text()
    assert program.compare(options) == results


def test_a_network_without_frames_has_no_mean_teacher(study, tmp_path):
    options, _ = study
    training = {**options.training, "mean_teacher": (0, 8, 0)}
    systems = (*options.systems, System("gmap_cnn", "gmap"))
    with pytest.raises(UserError, match=r"gmap_cnn, gmap: expected a network with frame"):
        program.compare(replace(options, out=tmp_path / "out", systems=systems, training=training))
    assert not (tmp_path / "out").exists()


def test_an_option_is_for_a_network_or_for_one_of_its_poolings(monkeypatch):
    options = ["channels=[2,2,2]", "dcase2017_crnn:max:channels=[4,4,4]", "gru_width=3"]
    arguments = [word for option in options for word in ("--model-option", option)]
    monkeypatch.setattr(sys, "argv", ["compare", "--data", "a", "--out", "b", *arguments])
    study = program.parse()
    built = {system.pooling: options_of(study, system) for system in study.systems}
    assert built["max"] == {"channels": [4, 4, 4], "gru_width": 3}
    assert built["mean"] == {"channels": [2, 2, 2], "gru_width": 3}


def test_a_pooling_that_the_network_does_not_take_is_named(study, tmp_path):
    options, _ = study
    systems = (System("gmap_cnn", "power"),)
    with pytest.raises(UserError, match=r"gmap_cnn: expected one of its poolings .* got power"):
        program.compare(StudyOptions(tmp_path / "out", options.data, systems))


def test_an_option_that_a_later_network_does_not_take_stops_before_the_first_trains(
    study, tmp_path
):
    options, _ = study
    systems = (*options.systems, System("atrous_cnn", "rank"))
    wrong = {**options.model_options, "atrous_cnn:rank": {"channels": [2, 2]}}
    with pytest.raises(UserError, match=r"atrous_cnn, rank: .*expected 4 numbers, got \[2, 2\]"):
        program.compare(
            replace(options, out=tmp_path / "out", systems=systems, model_options=wrong)
        )
    assert not (tmp_path / "out").exists()


def test_a_report_prints_the_papers_figures(study):
    _, results = study
    assert "| gmap | 0.417 | 0.971 | 2.678 |" in to_markdown(results, {})


@pytest.mark.parametrize("name", ["durations", "heads", "noise", "recordings"])
def test_a_study_in_the_readme_is_the_committed_one(name):
    folder = Path(program.__file__).parent
    results = read_results(folder / "results" / f"{name}.json")
    readme = (folder / "README.md").read_text()
    for corpus in results.corpora:
        assert all(line in readme for line in measures_table(results, corpus.name))


def test_results_are_read_back(study):
    options, results = study
    assert read_results(options.out / "results.json").corpora == results.corpora
    again = read_results(options.out / "results.json")
    assert judge(again) == judge(results)
