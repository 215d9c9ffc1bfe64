"""The benchmarks' bookkeeping: what a run writes, keeps and refuses."""

import csv

import pytest
import torch

from benchmarks import checking, results, run, summary
from milkernels import functional

TINY = ("--shape", "small", "--budget", "0", "--no-compile", "--threads", "1")
ONE_CASE = (*TINY, "--layout", "frames_first", "--kind", "logits")


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def a_row(**values):
    return {**dict.fromkeys(results.COLUMNS, "same"), **values}


def test_a_row_replaces_the_one_with_its_key(tmp_path):
    path = tmp_path / "speed.csv"
    table = results.Table(path)
    table.add([a_row(commit="old"), a_row(commit="old", operation="other")])
    table.add([a_row(commit="new")])
    table.close()
    kept = {(row["operation"], row["commit"]) for row in rows_of(path)}
    assert kept == {("same", "new"), ("other", "old")}


def test_appended_rows_are_in_the_file_at_once_and_the_last_counts(tmp_path):
    path = tmp_path / "speed.csv"
    table = results.Table(path)
    table.add([a_row(commit="old")])
    table.add([a_row(commit="new")])
    with path.open("a") as file:
        file.write("cut,sho")
    (row,) = results.Table(path).rows.values()
    assert row["commit"] == "new"


def test_a_table_of_other_columns_is_refused(tmp_path, capsys):
    path = tmp_path / "speed.csv"
    path.write_text("a,b\n1,2\n")
    assert run.main([*ONE_CASE, "--filter", "mean", "--out", str(path)]) == 2
    assert path.read_text() == "a,b\n1,2\n"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_second_run_replaces_the_first(tmp_path):
    path = tmp_path / "speed.csv"
    arguments = [*ONE_CASE, "--filter", "mean", "--out", str(path)]
    assert run.main(arguments) == 0
    first = rows_of(path)
    assert run.main(arguments) == 0
    second = rows_of(path)
    assert [results.key_of(row) for row in first] == [results.key_of(row) for row in second]
    assert len(first) == 2 * 4


@pytest.mark.parametrize("name", ["auto", "attention", "class_attention", "rank"])
def test_every_mode_and_implementation_has_a_row(tmp_path, name):
    path = tmp_path / "speed.csv"
    assert run.main([*TINY, "--filter", name, "--out", str(path)]) == 0
    rows = rows_of(path)
    assert tuple(rows[0]) == results.COLUMNS
    assert len(rows) == 2 * 2 * 2 * 4
    assert {row["implementation"] for row in rows} == {"milkernels", "eager", "floor", "copy"}
    assert {row["status"] for row in rows} == {"timed"}
    for row in rows:
        lower, median, upper = (
            float(row[f"{quartile}_seconds"])
            for quartile in ("lower_quartile", "median", "upper_quartile")
        )
        assert 0 < lower <= median <= upper
        assert int(row["frame_bytes"]) == 8 * 10 * 50 * 4 * (2 if name.endswith("attention") else 1)


@pytest.mark.parametrize(
    ("name", "shape", "implementations"),
    [
        ("attention_stats", "gmap", {"milkernels", "eager"}),
        ("bce_power", "in_cache", {"milkernels", "eager", "two steps"}),
        ("packed_power", "dcase", {"milkernels", "eager"}),
    ],
)
def test_operations_of_other_kinds_are_timed_too(tmp_path, name, shape, implementations):
    path = tmp_path / "speed.csv"
    options = ("--filter", name, "--shape", shape, "--kind", "logits", "--layout", "frames_first")
    assert run.main([*options, "--budget", "0", "--no-compile", "--out", str(path)]) == 0
    rows = rows_of(path)
    assert {row["implementation"] for row in rows} == implementations | {"floor", "copy"}
    assert {row["status"] for row in rows} == {"timed"}


def test_a_row_says_what_it_is_compared_with(tmp_path):
    path = tmp_path / "speed.csv"
    assert run.main([*ONE_CASE, "--filter", "power", "--out", str(path)]) == 0
    rows = {row["implementation"]: row for row in rows_of(path) if row["mode"] != "forward"}
    ours, eager = rows["milkernels"], rows["eager"]
    ratio = float(eager["median_seconds"]) / float(ours["median_seconds"])
    assert float(ours["times_eager"]) == pytest.approx(ratio, rel=2e-3)
    assert ours["times_compile"] == ""
    assert float(rows["copy"]["copy_share"]) == pytest.approx(1, rel=2e-3)
    assert float(ours["first_call_seconds"]) > 0


def test_a_pooling_holds_less_memory_than_its_eager_form(tmp_path):
    path = tmp_path / "speed.csv"
    options = ("--filter", "power", "--shape", "in_cache", "--kind", "logits")
    assert run.main([*options, "--budget", "0", "--no-compile", "--out", str(path)]) == 0
    peaks = {
        row["implementation"]: int(row["peak_extra_bytes"])
        for row in rows_of(path)
        if row["mode"] != "forward" and row["implementation"] in ("milkernels", "eager")
    }
    frames = 8 * 527 * 100 * 4
    assert frames <= peaks["milkernels"] < 1.2 * frames < peaks["eager"]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch):
    path = tmp_path / "speed.csv"
    measure = run.measure

    def interrupted_at_max(case, *rest):
        if case.operation.name == "max":
            raise KeyboardInterrupt
        return measure(case, *rest)

    monkeypatch.setattr(run, "measure", interrupted_at_max)
    assert run.main([*ONE_CASE, "--filter", "mean", "max", "--out", str(path)]) == 130
    assert {row["operation"] for row in rows_of(path)} == {"mean"}


def test_a_resumed_run_measures_only_what_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "speed.csv"
    assert run.main([*ONE_CASE, "--filter", "mean", "--out", str(path)]) == 0
    measured = []
    measure = run.measure
    monkeypatch.setattr(
        run, "measure", lambda case, *rest: measured.append(case) or measure(case, *rest)
    )
    arguments = [*ONE_CASE, "--filter", "mean", "max", "--out", str(path), "--resume"]
    assert run.main(arguments) == 0
    assert [case.operation.name for case in measured] == ["max"]


def test_what_is_wrong_is_not_timed(tmp_path, monkeypatch, capsys):
    right = functional.mean_pool
    monkeypatch.setattr(functional, "mean_pool", lambda x, **rest: 1.001 * right(x, **rest))
    path = tmp_path / "speed.csv"
    assert run.main([*ONE_CASE, "--filter", "mean", "--out", str(path)]) == 1
    rows = rows_of(path)
    assert {row["implementation"] for row in rows} == {"milkernels"}
    assert {row["status"] for row in rows} == {"failed"}
    assert all("off by" in row["note"] and not row["median_seconds"] for row in rows)
    assert "off by" in capsys.readouterr().err


def test_nan_is_wrong():
    nan = torch.full((2, 2), float("nan"))
    assert checking._problem("values", nan, torch.ones(2, 2).double(), 1.0) is not None


def test_means_are_geometric():
    assert summary.geometric_mean([1.0, None, 4.0]) == pytest.approx(2.0)
    assert summary.geometric_mean([None]) is None


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--filter", "no_such"], "no_such"), (["--threads", "0"], "--threads")]
)
def test_bad_options_are_one_line(capsys, arguments, word):
    assert run.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line
