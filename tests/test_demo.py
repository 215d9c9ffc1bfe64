"""The demo, at its smallest: what it leaves behind and what a second run does."""

import json

import pytest

from models.demo import POOLINGS, DemoOptions, run_demo
from models.demo_page import best_values, table_text
from models.errors import UserError
from models.train import MEASURES


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    options = DemoOptions(
        tmp_path_factory.mktemp("demo"),
        minutes=1,
        train_clips=20,
        evaluation_clips=4,
        model_options={"channels": [4, 4, 8], "gru_width": 6},
    )
    return options, run_demo(options)


def test_every_pooling_is_measured(demo):
    options, metrics = demo
    assert metrics == json.loads((options.out / "metrics.json").read_text())
    assert tuple(metrics) == POOLINGS
    assert all(set(row) == {*MEASURES} for row in metrics.values())


def test_pictures_and_a_page_without_other_files(demo):
    options, _ = demo
    pictures = [f"frame_probabilities_{pooling}.png" for pooling in POOLINGS]
    for name in (*pictures, "training_curves.png"):
        assert (options.out / name).read_bytes().startswith(b"\x89PNG")
    page = (options.out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(POOLINGS) + 1
    assert "http" not in page
    assert 'src="data:audio/flac;base64,' in page


def test_a_second_run_trains_nothing(demo):
    options, metrics = demo
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.p*")}
    assert run_demo(options) == metrics
    assert {path: path.stat().st_mtime_ns for path in options.out.rglob("*.p*")} == before


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        run_demo(DemoOptions(tmp_path))
    assert (tmp_path / "metrics.json").read_text() == "mine"


def test_ten_minutes_are_twelve_epochs():
    assert DemoOptions("out").epochs == 12


def test_the_best_of_a_column_is_its_largest_or_for_the_error_rate_its_smallest():
    row = dict.fromkeys(MEASURES, 0.5)
    metrics = {"max": row, "mean": {**row, "mAP": 0.6, "segment_er": 0.4, "d_prime": None}}
    best = best_values(metrics)
    assert (best["mAP"], best["segment_er"], best["d_prime"]) == (0.6, 0.4, 0.5)
    lines = table_text(metrics).splitlines()
    assert [line.split()[0] for line in lines] == ["pooling", "max", "mean"]
    assert "0.600*" in lines[2]
    assert "0.400*" in lines[2]
