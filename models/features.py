"""The systems' front end: log-mel or MFCC features, by the model itself on its own device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import librosa
import scipy.fft
import torch
from torch import Tensor, nn

from models.layers.padding import frame_mask


@dataclass(frozen=True)
class FeaturePreset:
    """How a system hears: times in samples of `sample_rate`, frequencies in Hz.

    Attributes:
        bands: mel bands, and with `mfcc` as many cepstral coefficients of them.
        whole_windows: frames are the windows that lie inside the clip, frame t from sample t · hop
            on, and at least one. Without it frame t is centred on hop t, every hop has one, the
            last, incomplete one too, and beyond its ends a clip is silent.
    """

    sample_rate: int
    window: int
    hop: int
    bands: int
    min_frequency: float
    max_frequency: float
    clip_seconds: float
    whole_windows: bool = False
    mfcc: bool = False

    @property
    def frame_seconds(self) -> float:
        """Seconds from a frame to the next."""
        return self.hop / self.sample_rate

    @property
    def clip_frames(self) -> int:
        """Frames of a clip of `clip_seconds`."""
        return int(self.frames(torch.tensor(round(self.clip_seconds * self.sample_rate))))

    def frames(self, samples: Tensor) -> Tensor:
        """Frames of so many samples; none of none."""
        if self.whole_windows:
            whole = (samples - self.window).clamp(min=0) // self.hop + 1
            return torch.where(samples > 0, whole, 0)
        return (samples + self.hop - 1) // self.hop


_GATED_CRNN = FeaturePreset(
    sample_rate=16000,
    window=1024,
    hop=1024 - 360,
    bands=64,
    min_frequency=0.0,
    max_frequency=8000.0,
    clip_seconds=10.0,
    whole_windows=True,
)

PRESETS = {
    "dcase2017": FeaturePreset(
        sample_rate=16000,
        window=1024,
        hop=400,
        bands=64,
        min_frequency=0.0,
        max_frequency=8000.0,
        clip_seconds=10.0,
    ),
    "two_step_autoencoder": FeaturePreset(
        sample_rate=32000,
        window=2048,
        hop=1024,
        bands=64,
        min_frequency=0.0,
        max_frequency=16000.0,
        clip_seconds=10.0,
        whole_windows=True,
    ),
    "gated_crnn": _GATED_CRNN,
    "gated_crnn_mfcc": replace(_GATED_CRNN, mfcc=True),
}
"""Presets by name. 10 s give 400 frames of "dcase2017" (Wang, Li and Metze, 2019), 311 of
"two_step_autoencoder" (Deshmukh et al., 2020), whose frequency range is not published, and 240 of
"gated_crnn" (Xu et al., 2018), to whose posteriors the paper's fusion adds those of a network that
hears "gated_crnn_mfcc"."""

_FLOOR = 1e-8  # power below 16-bit audio's own noise, where the logarithm would run away
_MIN_STD = 1e-3


class FrontEnd(nn.Module):
    """Waveform in, features with zero mean and unit variance in each band out.

    Mean and standard deviation are buffers, 0 and 1 until `fit_normalisation`.

    Args:
        preset: one of `PRESETS`, or one's own.
    """

    mel: Tensor
    cosines: Tensor
    window: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, preset: FeaturePreset) -> None:
        super().__init__()
        self.preset = preset
        mel = librosa.filters.mel(
            sr=preset.sample_rate,
            n_fft=preset.window,
            n_mels=preset.bands,
            fmin=preset.min_frequency,
            fmax=preset.max_frequency,
        )
        self.register_buffer("mel", torch.from_numpy(mel.T.copy()), persistent=False)
        if preset.mfcc:
            bands = torch.eye(preset.bands).numpy()
            cosines = torch.from_numpy(scipy.fft.dct(bands, norm="ortho"))
            self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("window", torch.hann_window(preset.window), persistent=False)
        self.register_buffer("mean", torch.zeros(preset.bands))
        self.register_buffer("std", torch.ones(preset.bands))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features.

        Args:
            waveform: (batch, samples) float, full scale ±1.
            lengths: (batch,) real samples of each clip.

        Returns:
            (batch, frames, bands), zero past a clip's end, and (batch,) real frames.
        """
        features, frames = self.extract(waveform, lengths)
        return self.normalise(features, frames), frames

    def extract(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, before normalisation; frames past a clip's end are silence."""
        features, frames = self.log_mel(waveform, lengths)
        if self.preset.mfcc:
            with torch.autocast(waveform.device.type, enabled=False):
                features = features @ self.cosines
        return features, frames

    def log_mel(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel spectrogram, which is what `extract` gives where that is not an MFCC."""
        preset = self.preset
        batch, samples = waveform.shape
        frames = int(preset.frames(torch.tensor(samples)))
        if batch == 0 or frames == 0:
            return waveform.new_zeros(batch, frames, preset.bands), preset.frames(lengths)
        with torch.autocast(waveform.device.type, enabled=False):
            padding = ~frame_mask(lengths, samples, waveform.device)
            before = 0 if preset.whole_windows else (preset.window - preset.hop) // 2
            after = (frames - 1) * preset.hop + preset.window - samples - before
            padded = nn.functional.pad(waveform.float().masked_fill(padding, 0), (before, after))
            spectrum = torch.stft(
                padded,
                preset.window,
                preset.hop,
                window=self.window,
                center=False,
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mel = power.transpose(1, 2) @ self.mel
            return mel.clamp(min=_FLOOR).log(), preset.frames(lengths)

    def normalise(self, features: Tensor, lengths: Tensor) -> Tensor:
        """What `extract` returned to zero mean and unit variance per band, zero past each end."""
        padding = ~frame_mask(lengths, features.shape[1], features.device)
        return ((features - self.mean) / self.std).masked_fill(padding.unsqueeze(2), 0)

    def fit_normalisation(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set mean and standard deviation to those of the real frames in `batches`.

        Args:
            batches: pairs as `extract` returns them.

        Raises:
            ValueError: where the batches hold no frame.
        """
        count = 0
        total = torch.zeros(self.preset.bands, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for features, lengths in batches:
            kept = frame_mask(lengths, features.shape[1], features.device)
            values = features[kept].double().cpu()
            count += len(values)
            total += values.sum(0)
            squares += values.square().sum(0)
        if count == 0:
            raise ValueError("batches: expected at least one frame to fit to, got none")
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp(min=_MIN_STD))
