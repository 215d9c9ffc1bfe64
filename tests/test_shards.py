"""WebDataset's shards: read as they stream, shuffled, and shared without overlap."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from models.compare import compare
from models.comparison.results import System
from models.comparison.runs import StudyOptions
from models.data.classes import ClassList
from models.data.clips import Unreadable, collate
from models.data.corpus import open_corpus
from models.data.packing import PackOptions, pack_corpus
from models.data.shards import ClipStream, ShuffledClips, StreamOptions
from models.errors import Terminated, UserError
from models.fuse import FuseOptions, fuse
from models.logs import StepLog
from models.run_folder import read_history
from models.train import MEASURES, train
from models.train_options import TrainOptions

CLASSES = ClassList(("/m/1", "/m/2"), ("Dog", "Cat"))
STREAM = StreamOptions(16000, 1.0)
CLIPS = 6
"""In a shard."""


def write_shard(path: Path, first: int) -> Path:
    with tarfile.open(path, "w") as shard:
        for number in range(first, first + CLIPS):
            sound = io.BytesIO()
            noise = np.random.default_rng(number).normal(0, 0.1, 16000)
            soundfile.write(sound, noise, 16000, format="FLAC")
            label = [["/m/1"], ["Cat"], [0, 1]][number % 3]
            files = {"flac": sound.getvalue(), "json": json.dumps({"labels": label}).encode()}
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{path.stem}/clip-{number:03d}.{suffix}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five training shards, one of evaluation clips."""
    CLASSES.write(tmp_path / "class_labels_indices.csv")
    for index in range(5):
        write_shard(tmp_path / f"train-{index}.tar", CLIPS * index)
    write_shard(tmp_path / "eval-0.tar", 100)
    return tmp_path


@pytest.fixture
def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("train-*.tar"))


def names(clips: object) -> list[str]:
    return [clip.clip_id.rpartition("/")[2] for clip in clips]


def test_a_stream_gives_each_clip_once_in_order(shards: list[Path]) -> None:
    clips = list(ClipStream(shards, CLASSES, STREAM))
    assert names(clips) == [f"clip-{number:03d}" for number in range(30)]
    assert [clip.target.tolist() for clip in clips[:3]] == [[1, 0], [0, 1], [1, 1]]
    assert len(clips[0].waveform) == 16000


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_shards(workers: int, shards: list[Path]) -> None:
    loader = DataLoader(
        ClipStream(shards, CLASSES, STREAM), 4, collate_fn=collate, num_workers=workers
    )
    found = [name for batch in loader for name in batch.clip_ids]
    assert len(found) == len(set(found)) == 30


def shuffled(shards: list[Path], rank: int = 0, **changes: int) -> ShuffledClips:
    clips = ShuffledClips(shards, CLASSES, STREAM, 2, seed=3, rank=rank, processes=2)
    for name, value in changes.items():
        setattr(clips, name, value)
    return clips


def test_processes_and_workers_read_disjoint_clips(shards: list[Path]) -> None:
    every = []
    for rank, worker, dealt in ((0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 1, 1)):
        one_pass = islice(shuffled(shards, rank)._endless(worker, 2), dealt * CLIPS)
        every += [sample["__key__"] for sample in one_pass]
    assert len(every) == len(set(every)) == 5 * CLIPS


def test_clips_are_shuffled_anew_in_each_epoch_and_the_same_for_a_seed(shards: list[Path]) -> None:
    first = names(islice(shuffled(shards), 18))
    assert names(islice(shuffled(shards), 18)) == first
    assert first != sorted(first)
    assert names(islice(shuffled(shards, epoch=1), 18)) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_after_some_of_its_batches(workers: int, shards: list[Path]) -> None:
    def batches(start: int, count: int) -> list[tuple[str, ...]]:
        loader = DataLoader(
            shuffled(shards, start=start), 2, collate_fn=collate, num_workers=workers
        )
        return [batch.clip_ids for batch in islice(loader, count)]

    whole = batches(0, 9)
    for start in (1, 4):
        assert batches(start, 9 - start) == whole[start:]


def test_a_broken_clip_and_a_broken_shard_are_named_and_not_fatal(shards: list[Path]) -> None:
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[: len(data) // 2 + 700])
    with tarfile.open(shards[1], "w") as shard:
        for name, content in (
            ("a.flac", b"no audio"),
            ("a.json", b'{"labels": [0]}'),
            ("b.flac", b""),
            ("b.json", b'{"labels": ["Cow"]}'),
            ("c.json", b'{"labels": [0]}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    clips = list(ClipStream(shards[:3], CLASSES, STREAM))
    broken = {clip.clip_id: clip.reason for clip in clips if isinstance(clip, Unreadable)}
    assert set(broken) == {"train-0.tar", "a", "b", "c"}
    assert "train-0.tar: cannot be read to its end" in broken["train-0.tar"]
    assert "train-1.tar, a: expected audio" in broken["a"]
    assert "Cow" in broken["b"]
    assert "expected a sound file" in broken["c"]
    assert len(clips) - len(broken) >= CLIPS + 1
    strict = StreamOptions(16000, 1.0, strict=True)
    with pytest.raises(UserError, match=r"--strict"):
        list(ClipStream(shards[:2], CLASSES, strict))


def options(folder: Path, out: Path, **changes: object) -> TrainOptions:
    common = {"epochs": 2, "epoch_batches": 4, "batch_size": 4, "log_every": 1}
    network = {"channels": [2, 2, 4], "gru_width": 4}
    common |= {"model_options": network, "accelerator": "cpu", "devices": "1"}
    return TrainOptions(folder, out, **{**common, **changes})


@pytest.mark.parametrize("workers", [0, 2])
def test_training_streams_and_goes_on_in_mid_epoch(
    workers: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = train(options(folder, whole, workers=workers))
    assert expected["clips"] == CLIPS
    log = StepLog.on_train_batch_end

    def signalling(self: StepLog, trainer: object, *rest: object) -> None:
        log(self, trainer, *rest)
        if trainer.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Terminated):
        patched.setattr(StepLog, "on_train_batch_end", signalling)
        train(options(folder, stopped, workers=workers))
    assert train(options(folder, stopped, workers=workers)) == expected
    assert (stopped / "steps.csv").read_text() == (whole / "steps.csv").read_text()
    losses = [
        [row["train_loss"] for row in read_history(run / "history.csv")] for run in (whole, stopped)
    ]
    assert losses[0] == losses[1]


def test_a_run_on_shards_can_be_measured_again(folder: Path, tmp_path: Path) -> None:
    trained = train(options(folder, tmp_path / "run"))
    metrics = fuse(FuseOptions((tmp_path / "run",), folder, tmp_path / "fused", batch_size=4))
    assert metrics["thresholds"] == "tuned on the clips that the runs held out"
    assert {name: metrics[name] for name in MEASURES} == pytest.approx(
        {name: trained[name] for name in MEASURES}
    )


def test_a_study_of_shards_is_refused_before_it_trains(folder: Path, tmp_path: Path) -> None:
    study = StudyOptions(tmp_path / "study", (folder,), (System("dcase2017_crnn", "max"),))
    with pytest.raises(UserError, match=r"expected a corpus that is not streamed .* train-0\.tar"):
        compare(study)
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch_batches": None}, "give --epoch-batches"),
        ({"cache_features": True}, "--cache-features: expected a corpus that is not streamed"),
        ({"workers": 9}, "expected a training shard for each of 9 worker processes, found 4"),
        ({"held_out": 0.9}, "expected training shards enough to hold 5 out, found 5"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    changes: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(options(folder, tmp_path / "run", **changes))
    with pytest.raises(UserError, match="found shards"):
        pack_corpus(open_corpus(folder), PackOptions(tmp_path / "pack" / "train.h5"))
