"""Log-mel features: sizes, timing, padding and normalisation."""

import math

import librosa
import numpy as np
import pytest
import torch

from models.features import PRESETS, FrontEnd

PRESET = PRESETS["dcase2017"]


@pytest.fixture
def front_end():
    return FrontEnd(PRESET)


def noise(samples, clips=1):
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


def tone(hertz, samples):
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / PRESET.sample_rate)


def test_ten_seconds_give_400_frames_of_64_bands(front_end):
    features, frames = front_end(noise(160_000), torch.tensor([160_000]))
    assert features.shape == (1, 400, 64)
    assert frames.tolist() == [400]


@pytest.mark.parametrize(
    ("name", "frames"),
    [("dcase2017", 400), ("two_step_autoencoder", 311), ("gated_crnn", 240)],
)
def test_ten_seconds_give_each_systems_frames(name, frames):
    preset = PRESETS[name]
    samples = 10 * preset.sample_rate
    features, counted = FrontEnd(preset)(noise(samples), torch.tensor([samples]))
    assert features.shape == (1, frames, 64)
    assert counted.tolist() == [preset.clip_frames] == [frames]


def test_whole_windows_lie_inside_the_clip():
    preset = PRESETS["gated_crnn"]
    waveform = torch.zeros(1, preset.window + 2 * preset.hop)
    waveform[0, -1] = 1e6
    features, frames = FrontEnd(preset).log_mel(waveform, torch.tensor([waveform.shape[1]]))
    assert frames.tolist() == [3]
    silent = features[0, 0]
    assert torch.equal(features[0, 1], silent)
    assert bool((features[0, 2] > silent).all())


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (1024, 1), (1687, 1), (1688, 2)])
def test_a_clip_shorter_than_a_window_is_one_frame(samples, frames):
    preset = PRESETS["gated_crnn"]
    features, counted = FrontEnd(preset)(noise(samples), torch.tensor([samples]))
    assert features.shape == (1, frames, 64)
    assert counted.tolist() == [frames]


def test_cepstral_coefficients_are_the_cosine_transform_of_the_log_mel_bands():
    waveform, lengths = noise(8000), torch.tensor([8000])
    front_end = FrontEnd(PRESETS["gated_crnn_mfcc"])
    log_mel, _ = FrontEnd(PRESETS["gated_crnn"]).extract(waveform, lengths)
    coefficients, _ = front_end.extract(waveform, lengths)
    expected = librosa.feature.mfcc(S=log_mel[0].T.numpy(), n_mfcc=64)
    torch.testing.assert_close(coefficients[0].T, torch.from_numpy(expected), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(front_end.log_mel(waveform, lengths)[0], log_mel)


def test_an_incomplete_hop_is_a_frame(front_end):
    features, frames = front_end(noise(801), torch.tensor([801]))
    assert features.shape == (1, 3, 64)
    assert frames.tolist() == [3]


def test_an_empty_batch_has_no_frames(front_end):
    features, frames = front_end(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64))
    assert features.shape == (0, 0, 64)
    assert frames.tolist() == []


def test_a_frame_is_centred_on_its_hop(front_end):
    waveform = torch.zeros(1, 16_000)
    waveform[0, 10 * PRESET.hop + PRESET.hop // 2] = 1
    features, _ = front_end.log_mel(waveform, torch.tensor([16_000]))
    assert int(features.sum(dim=2).argmax()) == 10


def test_a_tone_is_loudest_in_its_band(front_end):
    features, _ = front_end.log_mel(tone(1000, 16_000)[None], torch.tensor([16_000]))
    band = int(features[0, 20].argmax())
    response = front_end.mel[:, band].numpy()
    centre = np.average(np.linspace(0, PRESET.sample_rate / 2, len(response)), weights=response)
    assert centre == pytest.approx(1000, abs=60)


def test_a_tone_has_the_power_that_the_mel_matrix_gives_it(front_end):
    features, _ = front_end.log_mel(tone(1000, 16_000)[None], torch.tensor([16_000]))
    spectrum = np.abs(np.fft.rfft(tone(1000, 1024).numpy() * np.hanning(1025)[:-1])) ** 2
    expected = np.log(np.maximum(spectrum @ front_end.mel.numpy(), 1e-8))
    assert features[0, 20].max().item() == pytest.approx(expected.max(), abs=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_a_clip_gives_the_same_alone_and_padded_in_a_batch(name):
    front_end = FrontEnd(PRESETS[name])
    waveform = noise(8000, clips=2)
    batch, frames = front_end(waveform, torch.tensor([8000, 3333]))
    alone, _ = front_end(waveform[1:, :3333], torch.tensor([3333]))
    torch.testing.assert_close(batch[1, : frames[1]], alone[0])
    assert bool((batch[1, frames[1] :] == 0).all())


def test_silence_and_padding_of_nan_are_finite(front_end):
    waveform = torch.zeros(1, 4000)
    waveform[0, 2000:] = math.nan
    features, _ = front_end(waveform, torch.tensor([2000]))
    assert bool(features.isfinite().all())


def test_normalisation_gives_zero_mean_and_unit_variance_of_real_frames(front_end):
    waveform, lengths = noise(16_000, clips=4), torch.tensor([16_000, 9000, 16_000, 400])
    front_end.fit_normalisation([front_end.log_mel(waveform, lengths)])
    features, frames = front_end(waveform, lengths)
    real = torch.cat([clip[:count] for clip, count in zip(features, frames, strict=True)])
    torch.testing.assert_close(real.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(64), atol=1e-4, rtol=0)


def test_normalisation_does_not_depend_on_the_batches(front_end):
    waveform, lengths = noise(16_000, clips=4), torch.full((4,), 16_000)
    front_end.fit_normalisation([front_end.log_mel(waveform, lengths)])
    mean, std = front_end.mean.clone(), front_end.std.clone()
    front_end.fit_normalisation(front_end.log_mel(clip[None], lengths[:1]) for clip in waveform)
    torch.testing.assert_close(front_end.mean, mean)
    torch.testing.assert_close(front_end.std, std)


def test_a_band_without_variation_is_not_divided_by_zero(front_end):
    front_end.fit_normalisation([front_end.log_mel(torch.zeros(1, 4000), torch.tensor([4000]))])
    features, _ = front_end(torch.zeros(1, 4000), torch.tensor([4000]))
    assert bool(features.isfinite().all())


def test_normalisation_is_part_of_the_state(front_end):
    front_end.fit_normalisation([front_end.log_mel(noise(16_000), torch.tensor([16_000]))])
    other = FrontEnd(PRESET)
    other.load_state_dict(front_end.state_dict())
    torch.testing.assert_close(other.mean, front_end.mean)
    torch.testing.assert_close(other.std, front_end.std)


def test_nothing_to_fit_to_is_an_error(front_end):
    with pytest.raises(ValueError, match="at least one frame"):
        front_end.fit_normalisation([])
