"""Training that goes on: in mid-epoch, after SIGTERM, and on another number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.data.mixing import MixOptions, mix_corpus
from models.data.sampling import BalancedBatchSampler
from models.errors import UserError
from models.run_folder import read_history
from models.step_batches import StepBatches
from models.train import train
from models.train_options import TrainOptions, parse_train_options

NETWORK = {"channels": [2, 2, 4], "gru_width": 4}
COMMON = {"epochs": 2, "batch_size": 4, "held_out": 0.25, "log_every": 1, "model_options": NETWORK}
LABELS = [(index % 3,) for index in range(40)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix_corpus(MixOptions(directory, train=32, evaluation=4, seconds=1.0), progress=False)
    return directory


def options(data, out, **changes):
    return TrainOptions(data, out, accelerator="cpu", devices="1", **{**COMMON, **changes})


def command(data, out, *more):
    return [
        *(sys.executable, "-W", "ignore", "-m", "models.train", "--data", str(data)),
        *("--out", str(out), "--epochs", "2", "--batch-size", "4", "--held-out", "0.25"),
        *(f"--model-option={name}={json.dumps(value)}" for name, value in NETWORK.items()),
        *("--accelerator", "cpu", "--log-every", "1", *more),
    ]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def terminate_in_the_first_epoch(data, out, *more):
    """Start a run, send SIGTERM once it has saved a step; exit status and what it said."""
    process = subprocess.Popen(
        command(data, out, "--save-every", "1", *more),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while process.poll() is None and not (out / "last.ckpt").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=120)
    return process.returncode, message


def losses(out):
    rows = [line.split(",") for line in (out / "steps.csv").read_text().splitlines()[1:]]
    return {int(row[0]): float(row[2]) for row in rows}


def weights(out):
    return torch.load(out / "model.pt", weights_only=True)["state"]


def history(out):
    rows = read_history(out / "history.csv")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A run of one process that nothing interrupts."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    train(options(data, out))
    return out


def assert_same_to_rounding(run, expected):
    assert len(history(run)) == len(history(expected))
    for row, wanted in zip(history(run), history(expected), strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
    found, wanted = weights(run), weights(expected)
    for name in set(wanted) - {"thresholds"}:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-5)


def test_sigterm_in_mid_epoch_saves_and_the_run_goes_on_to_the_same_bits(data, tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    status, message = terminate_in_the_first_epoch(data, stopped, "--ema", "0.9")
    assert status == 143
    assert message.splitlines()[-1].startswith("terminated: run the same command again")
    assert "0 of 2 epochs" in message
    assert 0 < max(losses(stopped)) < 6
    for out in (stopped, whole):
        train(options(data, out, ema=0.9))
    assert sorted(losses(stopped)) == list(range(1, 13))
    assert losses(stopped) == losses(whole)
    assert history(stopped) == history(whole)
    states = weights(stopped), weights(whole)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_two_processes_stop_at_sigterm_and_end_with_one_processs_result(alone, data, tmp_path):
    shared = tmp_path / "shared"
    status, message = terminate_in_the_first_epoch(data, shared, "--devices", "2")
    assert status == 143
    assert [line.partition(" ")[0] for line in message.splitlines()] == ["0", "terminated:"]
    going_on = [*command(data, shared, "--devices", "2")]
    subprocess.run(going_on, check=True, capture_output=True, env=environment(), timeout=240)
    assert_same_to_rounding(shared, alone)


def test_pieces_of_a_step_add_up_to_it(alone, data, tmp_path):
    train(options(data, tmp_path / "pieces", accumulate=2))
    assert_same_to_rounding(tmp_path / "pieces", alone)


def test_averaged_weights_follow_the_others_slowly(alone, data, tmp_path):
    train(options(data, tmp_path / "averaged", ema=0.9))
    assert losses(tmp_path / "averaged") == losses(alone)
    states = weights(tmp_path / "averaged"), weights(alone)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_runs_config_stands_for_the_options_that_are_not_given(alone, data, monkeypatch):
    given = ["--config", str(alone / "config.json"), "--out", "again", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["train", *given])
    own = {"pooling": "linear_softmax", "features": "dcase2017"}
    assert parse_train_options() == options(data, Path("again"), epochs=1, **own)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", r"expected a run's config\.json"),
        ('{"colour": 1}', "found colour"),
        ('{"pooling": "median"}', "pooling: expected one of"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(content, message, tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(path)])
    with pytest.raises(UserError, match=message):
        parse_train_options()


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (2, 3), (3, 2)])
def test_the_pieces_of_a_step_are_its_batch_disjoint_and_balanced(processes, accumulate):
    batches = BalancedBatchSampler(LABELS, 36, seed=1)
    shares = [list(StepBatches(batches, rank, processes, accumulate)) for rank in range(processes)]
    for step, batch in enumerate(batches):
        pieces = [share[step * accumulate + turn] for turn in range(accumulate) for share in shares]
        assert [index for piece in pieces for index in piece] == batch
        for piece in pieces:
            counts = [sum(LABELS[index] == (label,) for index in piece) for label in range(3)]
            assert max(counts) - min(counts) <= 1


def test_an_epoch_goes_on_at_its_step_and_the_next_begins_at_its_first():
    batches = BalancedBatchSampler(LABELS, 8, seed=1)
    whole = list(StepBatches(batches, accumulate=2))
    rest = StepBatches(batches, accumulate=2, start=3)
    assert len(rest) == len(whole) == 10
    rest.set_epoch(0)
    assert list(rest) == whole[6:]
    rest.set_epoch(1)
    assert len(list(rest)) == 10


def test_a_batch_that_cannot_be_cut_evenly_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="expected a batch size that is a multiple of 3, got 8"):
        StepBatches(BalancedBatchSampler(LABELS, 8), processes=3)
    with pytest.raises(UserError, match="--batch-size 4: expected a multiple of 3"):
        train(options(data, tmp_path / "run", accumulate=3))
