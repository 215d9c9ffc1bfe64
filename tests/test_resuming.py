"""Training that goes on: in mid-epoch, after SIGTERM, and on another number of processes."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from models.data.mixing import MixOptions, mix_corpus
from models.data.sampling import BalancedBatchSampler
from models.errors import Terminated, UserError, run_command
from models.logs import StepLog
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


@pytest.fixture
def sigterm_after(monkeypatch):
    """Sends SIGTERM to a run's process of that rank in its step of that number."""

    def arrange(step, rank=0):
        log = StepLog.on_train_batch_end

        def signalling(self, trainer, *rest):
            log(self, trainer, *rest)
            if trainer.global_step == step and trainer.global_rank == rank:
                monkeypatch.undo()
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(StepLog, "on_train_batch_end", signalling)

    return arrange


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


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (2, {"ema": 0.9}),
        (9, {"mean_teacher": (0, 4, 0), "time_shift": 2.0}),
        (6, {"accumulate": 2, "workers": 1}),
    ],
    ids=["averaged weights", "mean teacher", "pieces"],
)
def test_sigterm_saves_the_step_and_the_run_goes_on_to_the_same_bits(
    step, changes, sigterm_after, data, tmp_path, capsys
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = train(options(data, whole, **changes))
    sigterm_after(step)
    with pytest.raises(Terminated):
        train(options(data, stopped, **changes))
    assert max(losses(stopped)) == step
    assert f"{step // 6} of 2 epochs are in {stopped}" in capsys.readouterr().err
    assert train(options(data, stopped, **changes)) == expected
    assert sorted(losses(stopped)) == list(range(1, 13))
    assert losses(stopped) == losses(whole)
    assert history(stopped) == history(whole)
    states = weights(stopped), weights(whole)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_what_a_kill_leaves_goes_on_to_the_same_bits(alone, data, tmp_path, monkeypatch):
    """A copy of the folder, taken in mid-step three steps after a checkpoint."""
    left = tmp_path / "left"
    log = StepLog.on_train_batch_end

    def copying(self, trainer, *rest):
        log(self, trainer, *rest)
        if trainer.global_step == 4:
            shutil.copytree(tmp_path / "run", left)

    with monkeypatch.context() as patched:
        patched.setattr(StepLog, "on_train_batch_end", copying)
        train(options(data, tmp_path / "run", save_every=3))
    assert torch.load(left / "last.ckpt", weights_only=True)["global_step"] == 3
    assert max(losses(left)) == 3
    train(options(data, left, save_every=3))
    assert losses(left) == losses(alone)
    assert history(left) == history(alone)
    assert all(torch.equal(value, weights(left)[name]) for name, value in weights(alone).items())


def test_a_program_that_sigterm_ends_says_how_to_go_on_and_exits_with_143(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))
    signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    assert capsys.readouterr().err.startswith("terminated: run the same command again")


def train_in_two_processes(run_options):
    """Train as ranks 0 and 1, joined by gloo over the loopback interface; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_train_as, args=(rank, port, run_options)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


def _train_as(rank, port, run_options):
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()})
    rank_zero_only.rank = rank
    try:
        train(run_options)
    except Terminated:
        os._exit(143)


def test_two_processes_give_one_processs_result(alone, data, tmp_path):
    shared = dataclasses.replace(options(data, tmp_path / "shared"), devices="2")
    assert train_in_two_processes(shared) == [0, 0]
    assert_same_to_rounding(shared.out, alone)


def test_sigterm_to_one_process_stops_both_and_both_go_on(alone, data, tmp_path, sigterm_after):
    shared = dataclasses.replace(options(data, tmp_path / "shared"), devices="2")
    sigterm_after(3, rank=1)
    assert train_in_two_processes(shared) == [143, 0]
    assert max(losses(shared.out)) == 3
    assert not (shared.out / "metrics.json").exists()
    train(dataclasses.replace(shared, devices="1"))
    assert_same_to_rounding(shared.out, alone)


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
