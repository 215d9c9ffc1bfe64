"""Which epochs' detectors a run keeps: the last, the best, and those that are asked for."""

import json
import shutil

import pytest
import torch

from models.data.mixing import MixOptions, mix_corpus
from models.kept_epochs import kept_epoch, kept_epochs
from models.logs import StepLog
from models.run_folder import RunFolder, read_history
from models.system import DetectorTraining
from models.train import train
from models.train_options import TrainOptions

NETWORK = {"channels": [2, 2, 4], "gru_width": 4}
PRECISIONS = [0.2, 0.3, 0.5, 0.4]
COMMON = {"epochs": 3, "batch_size": 8, "held_out": 0.25, "model_options": NETWORK}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix_corpus(MixOptions(directory, train=24, evaluation=4, seconds=1.0), progress=False)
    return directory


def options(data, out, **changes):
    return TrainOptions(data, out, accelerator="cpu", devices="1", **{**COMMON, **changes})


def state(path):
    """A detector's tensors, but for the thresholds that a finished run tunes."""
    content = torch.load(path, weights_only=True)["state"]
    return {name: value for name, value in content.items() if "thresholds" not in name}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def row(epoch, precision, loss):
    return {"epoch": epoch, "held_out_mAP": precision, "held_out_loss": loss}


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([(0.2, 0.1), (0.5, 0.3), (0.4, 0.2)], (2, "held_out_mAP")),
        ([(0.5, 0.3), (0.5, 0.2)], (1, "held_out_mAP")),
        # No held-out clip has a label: every precision is 0.
        ([(0.0, 0.3), (0.0, 0.1), (0.0, 0.2)], (2, "held_out_loss")),
    ],
)
def test_the_best_epoch_is_the_first_of_the_highest_precision_or_else_the_lowest_loss(rows, kept):
    history = [row(epoch, *values) for epoch, values in enumerate(rows, start=1)]
    assert kept_epoch("best", history) == kept
    assert kept_epoch("last", history) == (len(rows), "last")


@pytest.fixture(scope="module")
def precision_rises_and_falls():
    """What so small a network's is would hang on the last bit of its arithmetic."""
    measured = DetectorTraining.on_train_epoch_end

    def scripted(system):
        measured(system)
        system.history[-1]["held_out_mAP"] = PRECISIONS[len(system.history) - 1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DetectorTraining, "on_train_epoch_end", scripted)
        yield


@pytest.fixture(scope="module")
def rising_and_falling(data, tmp_path_factory, precision_rises_and_falls):
    """A run that is kept at its best, which is not its end."""
    out = tmp_path_factory.mktemp("runs") / "best"
    changes = {"epochs": len(PRECISIONS), "keep": "best", "keep_epochs": len(PRECISIONS)}
    return out, changes, train(options(data, out, **changes))


def test_the_best_epochs_detector_is_kept_and_named(rising_and_falling):
    out, _, metrics = rising_and_falling
    precisions = [row["held_out_mAP"] for row in read_history(out / "history.csv")]
    assert precisions == PRECISIONS
    best = precisions.index(max(precisions))
    assert (metrics["kept_epoch"], metrics["kept_by"]) == (best + 1, "held_out_mAP")
    assert json.loads((out / "config.json").read_text())["keep"] == "best"
    epochs = kept_epochs(RunFolder(out))
    assert same(state(out / "model.pt"), state(epochs[best]))
    assert not same(state(out / "model.pt"), state(epochs[-1]))
    assert [path.name for path in (out / "best").iterdir()] == [f"epoch-{best + 1:04}.pt"]


def test_a_run_killed_after_its_best_epoch_keeps_it_all_the_same(
    rising_and_falling, data, tmp_path, monkeypatch
):
    out, changes, metrics = rising_and_falling
    left = tmp_path / "left"
    log = StepLog.on_train_batch_end

    def copying(self, trainer, *rest):
        log(self, trainer, *rest)
        if trainer.current_epoch == len(PRECISIONS) - 1 and not left.exists():
            shutil.copytree(tmp_path / "run", left)

    with monkeypatch.context() as patched:
        patched.setattr(StepLog, "on_train_batch_end", copying)
        train(options(data, tmp_path / "run", **changes))
    assert not (left / "model.pt").exists()
    assert train(options(data, left, **changes)) == metrics
    assert same(state(left / "model.pt"), state(out / "model.pt"))


@pytest.mark.parametrize(
    "changes",
    [{"ema": 0.9}, {"mean_teacher": (0, 8, 0)}],
    ids=["averaged weights", "mean teacher"],
)
def test_an_epochs_detector_is_the_one_that_was_validated(changes, data, tmp_path):
    train(options(data, tmp_path / "run", epochs=1, keep_epochs=1, **changes))
    (epoch,) = kept_epochs(RunFolder(tmp_path / "run"))
    assert same(state(epoch), state(tmp_path / "run" / "model.pt"))
