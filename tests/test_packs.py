"""HDF5 packs: those of PANNs are read, ours are written by several processes and resumable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models import pack as program
from models.data import packing
from models.data.clips import ClipDataset, collate
from models.data.corpus import Corpus, CorpusOptions, open_corpus, open_evaluation_set
from models.data.mixing import MixOptions, mix_corpus
from models.data.packing import Packed, PackOptions, pack_corpus
from models.data.packs import read_packs
from models.errors import UserError

RATE = 8000
TRAIN, EVALUATION = 6, 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Clips of a second, one of which is half as long and one of which is no audio."""
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix = MixOptions(directory, TRAIN, EVALUATION, seconds=1.0, sample_rate=RATE, format="wav")
    mix_corpus(mix, progress=False)
    short, broken = (directory / "audio" / "train" / f"train-00000{i}.wav" for i in (1, 2))
    short.write_bytes(short.read_bytes()[: 44 + RATE])
    broken.write_bytes(b"no audio")
    return open_corpus(directory)


def options(folder: Path, **changes: object) -> PackOptions:
    return PackOptions(folder / "train.h5", **{"sample_rate": RATE, "seconds": 1.5, **changes})


def test_packs_are_found_under_panns_names(corpus: Corpus, tmp_path: Path) -> None:
    pack_corpus(corpus, PackOptions(tmp_path / "balanced_train.h5", "train", RATE, 1.5))
    with pytest.raises(UserError, match=r"expected eval\*\.h5 beside balanced_train\.h5"):
        open_corpus(tmp_path)
    pack_corpus(corpus, PackOptions(tmp_path / "eval.h5", "eval", RATE, 1.5))
    found = open_corpus(tmp_path)
    assert (len(found.train), len(found.evaluation)) == (TRAIN - 1, EVALUATION)
    for read in (open_corpus, open_evaluation_set):
        with pytest.raises(UserError, match="for --ignore-unknown-labels, found packs or shards"):
            read(tmp_path, options=CorpusOptions(ignore_unknown_labels=True))
    (tmp_path / "balanced_train.h5").unlink()
    assert len(open_evaluation_set(tmp_path).clips) == EVALUATION


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_holds_what_the_folder_does(workers: int, corpus: Corpus, tmp_path: Path) -> None:
    assert pack_corpus(corpus, options(tmp_path, workers=workers)) == Packed(TRAIN - 1, 1, 0)
    evaluation = PackOptions(tmp_path / "eval.h5", "eval", RATE, 1.5)
    assert pack_corpus(corpus, evaluation) == Packed(EVALUATION, 0, 0)
    packed = open_corpus(tmp_path)
    assert packed.classes == corpus.classes
    assert packed.strong == corpus.strong
    assert packed.train.missing == 1
    readable = corpus.train.select([0, 1, 3, 4, 5])
    for clip, expected in zip(packed.train, readable, strict=True):
        assert (clip.clip_id, clip.labels) == (expected.clip_id, expected.labels)
        found, wanted = clip.load(RATE, 1.5), expected.load(RATE, 1.5)
        torch.testing.assert_close(found, wanted, atol=2 / 32768, rtol=0)
    assert len(packed.train[1].load(RATE, 1.5)) == RATE // 2
    assert (packed.train.labels != readable.labels).nnz == 0
    assert "train-000002_0\t" in (tmp_path / "train.h5.unreadable.tsv").read_text()
    assert not list(tmp_path.glob("*.part*"))


def test_clips_that_are_cut_are_counted_and_named(corpus: Corpus, tmp_path: Path) -> None:
    given = options(tmp_path, seconds=0.7)
    for _ in range(2):  # and so by who finds the pack there
        assert pack_corpus(corpus, given) == Packed(TRAIN - 1, 1, TRAIN - 2)
    named = given.cut.read_text().split()
    assert sorted(named) == [f"train-00000{i}_0" for i in (0, 3, 4, 5)]
    with h5py.File(given.out) as file:
        assert sorted(file["length"][:]) == [0, RATE // 2, *[round(0.7 * RATE)] * 4]


def test_worker_processes_read_a_pack(corpus: Corpus, tmp_path: Path) -> None:
    pack_corpus(corpus, options(tmp_path))
    clips = read_packs([tmp_path / "train.h5"], len(corpus.classes))
    clips[0].load(RATE, 1.0)
    dataset = ClipDataset(clips, len(corpus.classes), RATE, 1.0)
    alone, shared = (
        next(iter(DataLoader(dataset, 4, collate_fn=collate, num_workers=number)))
        for number in (0, 2)
    )
    assert torch.equal(alone.waveform, shared.waveform)


def test_a_pack_of_panns_is_read_without_its_padding(tmp_path: Path) -> None:
    waveform = np.zeros((3, 100), dtype=np.int16)
    waveform[0, :60] = np.arange(1, 61) * 100
    waveform[2] = -32767
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["waveform"] = waveform
        file["target"] = np.array([[True, False], [False, False], [True, True]])
        file["audio_name"] = np.array([b"YabcdefghijK.wav", b"", b"Y-YTIDYTIDYT.wav"], "S20")
        file.attrs["sample_rate"] = RATE
    clips = read_packs([tmp_path / "train.h5"], 2)
    assert [clip.clip_id for clip in clips] == ["abcdefghijK", "-YTIDYTIDYT"]
    assert [clip.labels for clip in clips] == [(0,), (0, 1)]
    assert clips.missing == 1
    first, second = (clip.load(RATE, 10.0) for clip in clips)
    assert len(first) == 60
    assert first[-1].item() == pytest.approx(6000 / 32767)
    assert second.tolist() == [-1.0] * 100
    both = read_packs([tmp_path / "train.h5"] * 2, 2)
    assert both.select([3])[0] == clips[1]


def test_a_row_that_is_all_zeros_is_unreadable_and_not_fatal(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["waveform"] = np.zeros((1, 100), dtype=np.int16)
        file["target"] = np.array([[True]])
        file["audio_name"] = np.array([b"Yabc.wav"])
    clips = read_packs([tmp_path / "train.h5"], 1)
    assert "row 0 (abc)" in ClipDataset(clips, 1)[0].reason


def test_packing_goes_on_where_it_was_killed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pack_corpus(corpus, options(whole))
    script = (
        "import os, sys; from pathlib import Path; from models.data import packing\n"
        "from models.data.corpus import open_corpus\n"
        "write = packing._write; places = []\n"
        "def stop(file, data, place):\n"
        "    write(file, data[: len(data) // 2], place) if len(places) == 6 else None\n"
        "    os.kill(os.getpid(), 9) if len(places) == 6 else places.append(place)\n"
        "    write(file, data, place)\n"
        "packing._write = stop\n"
        "options = packing.PackOptions(Path(sys.argv[2]), 'train', 8000, 1.5)\n"
        "packing.pack_corpus(open_corpus(Path(sys.argv[1])), options)\n"
    )
    arguments = [str(corpus.directory), str(killed / "train.h5")]
    stopped = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert stopped.returncode == -9
    written: list[int] = []
    write = packing._write
    monkeypatch.setattr(packing, "_write", lambda *call: (written.append(call[2]), write(*call)))
    pack_corpus(corpus, options(killed))
    assert len(written) == 2 * (TRAIN - 3)
    with h5py.File(whole / "train.h5") as one, h5py.File(killed / "train.h5") as other:
        assert all(np.array_equal(one[name][:], other[name][:]) for name in one)


def test_a_full_disk_is_one_line_and_loses_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: bytes, place: int) -> int:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(place)
        return os_pwrite(file, data, place)

    written: list[int] = []
    os_pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"train\.h5: cannot be written \(No space left") as failed:
        pack_corpus(corpus, options(tmp_path))
    assert "\n" not in str(failed.value)
    monkeypatch.setattr(os, "pwrite", os_pwrite)
    with h5py.File(tmp_path / "train.h5.part") as file:
        assert np.count_nonzero(file["length"][:] > 0) == 2
    assert pack_corpus(corpus, options(tmp_path)) == Packed(TRAIN - 1, 1, 0)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the pack takes .* GB, .* GB are free"):
        pack_corpus(corpus, options(tmp_path, seconds=1e10))
    assert not list(tmp_path.iterdir())


def test_a_pack_of_other_clips_or_options_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    pack_corpus(corpus, options(tmp_path))
    before = (tmp_path / "train.h5").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"train\.h5: in use by a pack of other clips"):
        pack_corpus(corpus, options(tmp_path, seconds=2.0))
    (tmp_path / "other.h5").write_bytes(b"no pack")
    with pytest.raises(UserError, match=r"other\.h5: expected a pack"):
        pack_corpus(corpus, PackOptions(tmp_path / "other.h5"))
    assert pack_corpus(corpus, options(tmp_path)) == Packed(TRAIN - 1, 1, 0)
    assert (tmp_path / "train.h5").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"waveform": np.zeros((2, 10), np.float32)}, "expected waveform as int16"),
        ({"target": np.zeros((2, 3), bool)}, r"expected target as \(2, 2\)"),
        ({"target": None}, "found no dataset target"),
    ],
)
def test_a_file_that_is_no_such_pack_is_refused(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    content = {
        "waveform": np.zeros((2, 10), np.int16),
        "target": np.zeros((2, 2), bool),
        "audio_name": np.array([b"a", b"b"]),
        **change,
    }
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
    with pytest.raises(UserError, match=rf"train\.h5: .*{message}"):
        read_packs([tmp_path / "train.h5"], 2)


def test_the_program_says_what_is_in_the_pack(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--data", str(corpus.directory), "--out", str(tmp_path / "train.h5")]
    monkeypatch.setattr(sys, "argv", ["pack", *given, "--sample-rate", "8000"])
    program.main()
    said = capsys.readouterr().out
    assert "train.h5: 5 clips" in said
    assert "1 clips could not be read, all named in" in said
    assert "longer" not in said
    cut = ["--data", str(corpus.directory), "--out", str(tmp_path / "cut.h5"), "--seconds", "0.7"]
    monkeypatch.setattr(sys, "argv", ["pack", *cut])
    program.main()
    assert "4 clips are longer than 0.7 s, all named in" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["pack", *given, "--sample-rate", "8"])
    with pytest.raises(SystemExit):
        program.main()
    assert capsys.readouterr().err.count("\n") == 1
