"""The options of a training run: what a run's config.json brings along, and how it is overruled."""

import json
import sys
from pathlib import Path

import pytest

from models.data.classes import ClassList
from models.errors import UserError
from models.train_options import TrainOptions, parse_train_options

CLASSES = ClassList(("/m/a", "/m/b"), ("a", "b"))


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Parses a command line over the config.json of a run with some options."""

    def parse(*given, **changes):
        run = TrainOptions(Path("corpus"), Path("run"), **changes)
        content = {**run.deciding(CLASSES), "circumstances": run.circumstances()}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["train", "--config", str(path), "--out", "new", *given])
        return parse_train_options()

    return parse


NETWORK = {
    "model": "dcase2017_crnn",
    "pooling": "power",
    "features": "dcase2017",
    "model_options": {"gru_width": 48},
}


def test_another_system_brings_its_own_pooling_features_and_options(parsed, capsys):
    options = parsed("--model", "gated_crnn", **NETWORK, epochs=7)
    assert (options.model, options.epochs) == ("gated_crnn", 7)
    assert (options.pooling, options.features, options.model_options) == (None, None, {})
    message = capsys.readouterr().err
    assert "pooling, features, model options of dcase2017_crnn are left out" in message
    assert message.count("\n") == 1


def test_another_system_takes_what_is_given_for_it(parsed):
    given = ("--model", "gated_crnn", "--pooling", "attention", "--model-option", "mels=32")
    options = parsed(*given, **NETWORK)
    assert (options.pooling, options.model_options) == ("attention", {"mels": 32})


@pytest.mark.parametrize("given", [(), ("--model", "dcase2017_crnn")])
def test_the_same_system_keeps_them(given, parsed, capsys):
    options = parsed(*given, **NETWORK)
    assert {name: getattr(options, name) for name in NETWORK} == NETWORK
    assert capsys.readouterr().err == ""


def test_a_run_of_another_batch_size_than_its_parts_is_refused(parsed, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--batch-size", "48", "--mean-teacher", "6", "6", "12")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "--batch-size 48: expected 24, the clips of --mean-teacher 6 6 12, or none" in message
    assert message.count("\n") == 1


def test_a_batch_size_contradicts_the_parts_of_a_config_too(parsed):
    with pytest.raises(SystemExit):
        parsed("--batch-size", "48", mean_teacher=(6, 6, 12), batch_size=24)


@pytest.mark.parametrize(
    ("given", "changes", "size"),
    [
        ((), {}, 32),
        (("--batch-size", "24", "--mean-teacher", "6", "6", "12"), {}, 24),
        (("--mean-teacher", "6", "6", "12"), {"batch_size": 48}, 24),
        (("--mean-teacher", "2", "2", "4"), {"mean_teacher": (6, 6, 12), "batch_size": 24}, 8),
        (("--no-mean-teacher",), {"mean_teacher": (6, 6, 12), "batch_size": 24}, 32),
        ((), {"batch_size": 48}, 48),
    ],
)
def test_a_step_has_as_many_clips_as_were_asked_for_last(given, changes, size, parsed):
    assert parsed(*given, **changes).batch_size == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec_augment", True),
        ("tune_frames", True),
        ("compile", True),
        ("cache_features", True),
        ("strict", True),
        ("mean_teacher", (16, 16, 0)),
        ("ema", 0.9),
        ("epoch_batches", 5),
        ("mixup", 1.0),
        ("time_shift", 16.0),
        ("eval_lists", ("validation/validation",)),
        ("held_out_lists", ("validation/synthetic",)),
        ("ignore_unknown_labels", True),
    ],
)
def test_what_a_config_switches_on_can_be_switched_off(name, value, parsed):
    assert getattr(parsed(**{name: value}), name) == value
    off = parsed(f"--no-{name.replace('_', '-')}", **{name: value})
    assert getattr(off, name) == TrainOptions.__dataclass_fields__[name].default


def test_a_config_whose_parts_are_no_numbers_of_clips_is_refused(parsed):
    with pytest.raises(UserError, match="mean_teacher: expected three whole numbers, got 6"):
        parsed(mean_teacher=6)
