"""Timing training steps: the same step with each implementation, and what the table says of it."""

import csv

import pytest
import torch

from benchmarks import training, training_cases
from benchmarks.plain import PlainFunctions
from benchmarks.training_cases import HEADS, IMPLEMENTATIONS, SYSTEMS
from models.layers.reference_pooling import use_reference_pooling

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "speed.csv"
    assert training.main(["--quick", "--out", str(path)]) == 0
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_implementation_has_a_row(rows):
    assert tuple(rows[0]) == training.COLUMNS
    found = {(row["part"], row["implementation"]) for row in rows}
    assert found == {
        *(("system", name) for name in IMPLEMENTATIONS),
        *(("head", name) for name in (*IMPLEMENTATIONS, "pool_bce")),
    }


def test_ratios_and_rates_follow_from_the_medians(rows):
    seconds = {(row["part"], row["implementation"]): float(row["median_seconds"]) for row in rows}
    for row in rows:
        own = float(row["median_seconds"])
        assert float(row["steps_per_second"]) == pytest.approx(1 / own, rel=1e-3)
        eager = seconds[row["part"], "eager"]
        assert float(row["times_eager"]) == pytest.approx(eager / own, rel=1e-3)
        assert int(row["peak_extra_bytes"]) > 0


def test_the_stages_of_a_systems_step_are_its_whole(rows):
    for row in (row for row in rows if row["part"] == "system"):
        parts = sum(
            float(row[f"{stage}_seconds"]) for stage in ("backbone", "pooling", "optimiser")
        )
        assert parts == pytest.approx(float(row["median_seconds"]), rel=1e-2)
        assert float(row["decode_seconds"]) > 0
        assert float(row["features_seconds"]) > 0


def small(case):
    return training._small(case)


@pytest.mark.parametrize("case", HEADS, ids=lambda case: case.name)
def test_heads_compute_the_same_in_every_implementation(case):
    case = small(case)
    hidden = torch.randn(case.batch, case.frames, case.width, requires_grad=True)
    target = torch.ones(case.batch, case.classes)
    outcomes = []
    for name in IMPLEMENTATIONS:
        head = training_cases.choose(training_cases.build_head(case, CPU), name)
        step = training_cases.Step(head, (hidden, None), target, training_cases.two_passes)
        loss = training_cases.two_passes(step)
        outcomes.append((loss, torch.autograd.grad(loss, hidden)[0]))
    for loss, gradient in outcomes[1:]:
        assert torch.allclose(loss, outcomes[0][0], rtol=1e-4)
        assert torch.allclose(gradient, outcomes[0][1], atol=1e-4)
    if case.pooling != "attention_stats":
        step = training_cases.Step(head, (hidden, None), target, training_cases.one_pass)
        assert torch.allclose(training_cases.one_pass(step), outcomes[0][0], rtol=1e-4)


def test_every_system_is_one_that_can_be_built_with_plain_poolings():
    for case in SYSTEMS:
        detector = training_cases.build_detector(case, CPU)
        use_reference_pooling(detector.network, PlainFunctions())
        assert case.batch(CPU) < case.batch(torch.device("cuda"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--case", "none"], "--case"), (["--rounds", "1"], "--rounds"), (["--threads", "0"], "1")],
)
def test_bad_options_are_one_line(capsys, arguments, words):
    assert training.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
