"""Clips and batches: any audio becomes mono at one rate, and padding is never part of a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from models.data.audio import decode_audio, load_audio
from models.data.clips import Clip, ClipDataset, Unreadable, collate
from models.data.segments import Segment
from models.errors import UserError

RATE = 16000


def tone(seconds: float, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def segment(path: Path, labels: tuple[int, ...] = (1,)) -> Segment:
    return Segment(f"{path.stem}_0", path, 0.0, 10.0, labels)


def write_unusable(folder: Path, kind: str) -> Path:
    """A file that is there and cannot be used as audio."""
    path = folder / f"{kind}.wav"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not audio")
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "not a number":
        soundfile.write(path, np.full(100, np.nan), RATE, "FLOAT")
    elif kind == "folder":
        path.mkdir()
    return path


UNUSABLE = ["missing", "empty", "text", "no samples", "not a number", "folder"]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (48000, 2)])
def test_any_format_rate_and_number_of_channels_becomes_mono(
    suffix: str, rate: int, channels: int, tmp_path: Path
) -> None:
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.stack([tone(1, rate)] * channels, axis=1), rate)
    waveform = load_audio(path, RATE)
    assert (waveform.dtype, waveform.ndim) == (torch.float32, 1)
    assert abs(len(waveform) - RATE) < 0.1 * RATE
    peak = np.abs(np.fft.rfft(waveform.numpy()[:8000])).argmax() * RATE / 8000
    assert peak == pytest.approx(440, abs=3)
    assert waveform[4000:12000].square().mean() == pytest.approx(0.125, rel=0.1)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = tone(0.5)
    soundfile.write(tmp_path / "clip.wav", np.stack([left, -0.5 * left], axis=1), RATE, "FLOAT")
    expected = torch.from_numpy(0.25 * left).float()
    torch.testing.assert_close(load_audio(tmp_path / "clip.wav", RATE), expected)


@pytest.mark.parametrize("rate", [16000, 44100, 22050])
@pytest.mark.parametrize(("seconds", "samples"), [(3.0, 32000), (2.0, 32000), (0.5, 8000)])
def test_a_clip_is_cropped_and_never_padded(
    rate: int, seconds: float, samples: int, tmp_path: Path
) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(seconds, rate), rate)
    clip = ClipDataset([segment(path)], num_classes=3, sample_rate=RATE, seconds=2.0)[0]
    assert clip.waveform.shape == (samples,)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize(
    ("seconds", "cut"), [(1.0, False), (2.0, False), (2.05, False), (2.5, True)]
)
def test_a_clip_that_is_too_long_says_so(
    rate: int, seconds: float, cut: bool, tmp_path: Path
) -> None:
    path = tmp_path / "abc.wav"
    soundfile.write(path, tone(seconds, rate), rate)
    clip = ClipDataset([segment(path)], num_classes=3, sample_rate=RATE, seconds=2.0)[0]
    assert clip.is_cut == cut
    assert collate([clip]).cut == (("abc_0",) if cut else ())


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.3333), (44100, 0.3333), (16000, 0.33331)])
def test_a_crop_is_right_to_the_sample(rate: int, seconds: float, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(1, rate), rate)
    assert len(load_audio(tmp_path / "clip.wav", RATE, seconds)) == round(seconds * RATE)


def test_a_clip_carries_its_target_and_name(tmp_path: Path) -> None:
    path = tmp_path / "abc.wav"
    soundfile.write(path, tone(0.1), RATE)
    dataset = ClipDataset([segment(path, (0, 3)), segment(path, ())], num_classes=4)
    assert dataset[0].target.tolist() == [1, 0, 0, 1]
    assert dataset[0].clip_id == "abc_0"
    assert dataset[1].target.tolist() == [0, 0, 0, 0]


def test_a_batch_tells_clips_from_padding() -> None:
    clips = [
        Clip(torch.ones(3), torch.tensor([1.0, 0.0]), "a_0"),
        Clip(torch.ones(5), torch.tensor([0.0, 1.0]), "b_0"),
    ]
    batch = collate(clips)
    assert batch.waveform.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (batch.lengths.tolist(), batch.lengths.dtype) == ([3, 5], torch.int64)
    assert batch.target.tolist() == [[1, 0], [0, 1]]
    assert batch.clip_ids == ("a_0", "b_0")
    assert (len(batch), batch.unreadable) == (2, ())


def test_a_batch_moves_between_devices_whole() -> None:
    skipped = Unreadable("b_0", "b.wav: broken")
    batch = collate([Clip(torch.ones(3), torch.zeros(2), "a_0"), skipped]).to("meta")
    assert {tensor.device.type for tensor in (batch.waveform, batch.lengths, batch.target)} == {
        "meta"
    }
    assert (batch.clip_ids, batch.unreadable) == (("a_0",), (skipped,))


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    path = write_unusable(tmp_path, kind)
    with pytest.raises(UserError, match=rf"{kind}\.wav: expected"):
        load_audio(path, RATE)
    with pytest.raises(UserError, match=rf"{kind}\.wav"):
        ClipDataset([segment(path)], num_classes=2, strict=True)[0]
    skipped = ClipDataset([segment(path)], num_classes=2)[0]
    assert skipped.clip_id == f"{kind}_0"
    assert f"{kind}.wav: expected" in skipped.reason


def test_a_truncated_file_is_named_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    path.write_bytes(path.read_bytes()[:5000])
    clip = ClipDataset([segment(path)], num_classes=2)[0]
    assert isinstance(clip, Unreadable) or 0 < len(clip.waveform) < RATE


def test_a_file_in_memory_is_read_as_one_on_disk_is(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, tone(1, 44100), 44100)
    decoded = decode_audio(path.read_bytes(), RATE, 0.5)
    assert torch.equal(decoded, load_audio(path, RATE, 0.5))
    with pytest.raises(UserError, match=r"shard\.tar, clip: expected audio"):
        decode_audio(b"not audio", RATE, name="shard.tar, clip")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_names_the_clips_that_it_lacks(workers: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", tone(0.1), RATE)
    segments = [segment(tmp_path / "good.wav"), segment(write_unusable(tmp_path, "text"))]
    dataset = ClipDataset(segments, num_classes=2)
    batch = next(iter(DataLoader(dataset, 2, collate_fn=collate, num_workers=workers)))
    assert batch.clip_ids == ("good_0",)
    assert [clip.clip_id for clip in batch.unreadable] == ["text_0"]


def test_a_batch_of_which_every_clip_was_skipped_is_empty() -> None:
    batch = collate([Unreadable("a_0", "why"), Unreadable("b_0", "why")])
    assert (len(batch), len(batch.unreadable), batch.waveform.shape) == (0, 2, (0, 0))


def test_worker_processes_read_the_same_clips(tmp_path: Path) -> None:
    segments = []
    for index in range(4):
        soundfile.write(tmp_path / f"{index}.wav", tone(0.1 + 0.1 * index), RATE)
        segments.append(segment(tmp_path / f"{index}.wav"))
    dataset = ClipDataset(segments, num_classes=2)
    alone, workers = (
        list(DataLoader(dataset, 3, collate_fn=collate, num_workers=number)) for number in (0, 1)
    )
    for one, other in zip(alone, workers, strict=True):
        assert one.clip_ids == other.clip_ids
        assert torch.equal(one.waveform, other.waveform)
