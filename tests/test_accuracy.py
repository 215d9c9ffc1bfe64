"""The measured errors: their unit, their table, and the page that shows it."""

from pathlib import Path

import pytest
import torch

from benchmarks import accuracy

PAGE = Path(accuracy.__file__).with_name("accuracy.md")


def test_an_error_counts_roundings_of_the_largest_value():
    truth = torch.tensor([1.0, -4.0, 0.0], dtype=torch.float64)
    result = truth.float() + torch.tensor([0.0, 2**-21, 2**-22])
    assert accuracy.errors_in_units(result, truth).tolist() == [0, 1, 0.5]


def test_each_backend_and_eager_have_a_row_for_each_direction_and_dtype(tmp_path):
    path = tmp_path / "accuracy.csv"
    assert accuracy.main(["--operation", "max", "--out", str(path)]) == 0
    rows = accuracy.read(path)
    of = [
        tuple(row[key] for key in ("direction", "dtype", "kind", "implementation")) for row in rows
    ]
    backends = {implementation for *_, implementation in of}
    assert accuracy.EAGER in backends and len(backends) >= 2
    assert len(of) == len(set(of)) == 2 * 3 * 2 * len(backends)
    ours = [row for row in rows if row["implementation"] != accuracy.EAGER]
    assert all(0 <= float(row["mean_ulp"]) <= float(row["largest_ulp"]) < 2 for row in ours)


def test_the_page_shows_the_committed_measurement():
    lines = list(accuracy.table(accuracy.read(accuracy.RESULTS)))
    assert len(lines) > 50
    assert "\n".join(lines).strip() in PAGE.read_text()


@pytest.mark.parametrize("direction", accuracy.DIRECTIONS)
def test_the_committed_errors_are_within_the_budget(direction):
    rows = [row for row in accuracy.read(accuracy.RESULTS) if row["direction"] == direction]
    setting = ("operation", "dtype", "kind")
    eager = {
        tuple(row[key] for key in setting): float(row["largest_ulp"])
        for row in rows
        if row["implementation"] == accuracy.EAGER
    }
    for row in rows:
        assert float(row["largest_ulp"]) <= 2 * eager[tuple(row[key] for key in setting)] + 1, row
