"""One mixed clip: which events it holds, where they lie, and how it sounds.

All of it follows from the options, the split and the clip's index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.data.events import EventBank, background, trim
from models.errors import UserError

SPLITS = ("train", "eval")
PEAK = 0.95
SHORT_EVENT = 1.0
"""Events shorter than this, in seconds, may occur up to three times in a clip."""


@dataclass(frozen=True)
class MixOptions:
    """What to mix.

    `events` is a folder of recordings with an `events.csv`; None stands for synthetic sounds.
    `snr` holds the level of an event against the background under it, in dB: one value, the two
    ends of a range, or three values and more to draw from. `events_per_clip` is the least and
    the largest number of different classes in a clip. `durations` holds the seconds, a fifth more
    or less, that events of the first, second, … class last, from the start again where there are
    more classes; recordings are cut or repeated to it. Without, each lasts as long as it does, at
    most half a clip.
    """

    out: Path
    train: int
    evaluation: int
    seed: int = 0
    events: Path | None = None
    snr: tuple[float, ...] = (0.0, 20.0)
    sample_rate: int = 16000
    seconds: float = 10.0
    events_per_clip: tuple[int, int] = (1, 3)
    durations: tuple[float, ...] = ()
    format: str = "flac"

    def check(self) -> None:
        """Raise UserError that names an option which cannot be used."""
        low, high = self.events_per_clip
        checks = (
            (self.train >= 1, "--train", "at least 1 clip", self.train),
            (self.evaluation >= 1, "--eval", "at least 1 clip", self.evaluation),
            (self.seed >= 0, "--seed", "a number from 0", self.seed),
            (
                len(self.snr) > 0 and all(-100 <= value <= 100 for value in self.snr),
                "--snr",
                "values between -100 and 100 dB",
                self.snr,
            ),
            (
                len(self.snr) != 2 or self.snr[0] <= self.snr[1],
                "--snr",
                "the lower end of the range first",
                self.snr,
            ),
            (
                4000 <= self.sample_rate <= 192000,
                "--sample-rate",
                "4000 to 192000 Hz",
                self.sample_rate,
            ),
            (1 <= self.seconds <= 600, "--seconds", "1 to 600", self.seconds),
            (1 <= low <= high, "--events-per-clip", "1 <= MIN <= MAX", self.events_per_clip),
            (
                all(0.05 <= value <= self.seconds / 1.25 for value in self.durations),
                "--durations",
                f"0.05 to {self.seconds / 1.25:g} s, four fifths of a clip",
                self.durations,
            ),
            (self.format in ("flac", "wav"), "--format", "flac or wav", self.format),
        )
        for good, option, expected, found in checks:
            if not good:
                raise UserError(f"{option}: expected {expected}, found {listed(found)}")


@dataclass(frozen=True)
class Placed:
    """One occurrence of an event in a clip, in samples."""

    label: int
    onset: int
    waveform: np.ndarray
    snr: float


def plan_clip(bank: EventBank, options: MixOptions, split: str, index: int) -> list[Placed]:
    """The events of a clip, in order of onset; no class overlaps itself."""
    rng = _generator(options, split, index, 0)
    samples = round(options.seconds * options.sample_rate)
    placed: list[Placed] = []
    for label in _classes(bank, options, split, index):
        recordings = bank.by_class[label]
        event = recordings[rng.integers(len(recordings))]
        waveform = bank.waveform(event)
        if options.durations:
            seconds = options.durations[label % len(options.durations)] * rng.uniform(0.8, 1.2)
            length = round(seconds * options.sample_rate)
            waveform = _repeat(waveform, length)
        else:
            length = samples // 2
        waveform = _cut(waveform, length, options.sample_rate, rng)
        snr = _snr(options.snr, rng)
        short = len(waveform) < SHORT_EVENT * options.sample_rate
        taken: list[int] = []
        for _ in range(rng.integers(1, 4) if short else 1):
            onset = _free_onset(taken, len(waveform), samples, options.sample_rate, rng)
            if onset is not None:
                taken.append(onset)
                placed.append(Placed(label, onset, waveform, snr))
    return sorted(placed, key=lambda event: (event.onset, event.label))


def render_clip(plan: Sequence[Placed], options: MixOptions, split: str, index: int) -> np.ndarray:
    """The clip's waveform (samples,) float64 in (-1, 1)."""
    rng = _generator(options, split, index, 1)
    samples = round(options.seconds * options.sample_rate)
    noise = background(rng, samples, options.sample_rate) * 10 ** (rng.uniform(-40, -25) / 20)
    clip = noise.copy()
    for event in plan:
        region = slice(event.onset, event.onset + len(event.waveform))
        power = np.mean(noise[region] ** 2) / np.mean(event.waveform.astype(float) ** 2)
        clip[region] += event.waveform * np.sqrt(power) * 10 ** (event.snr / 20)
    return clip * min(1.0, PEAK / np.abs(clip).max())


def _generator(options: MixOptions, split: str, index: int, part: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, SPLITS.index(split), part, index])


def _classes(bank: EventBank, options: MixOptions, split: str, index: int) -> list[int]:
    """Different classes for one clip: the first takes its turn, the others are drawn."""
    count = len(bank.classes)
    order = _generator(options, split, index // count, 2).permutation(count)
    first = int(order[index % count])
    rng = _generator(options, split, index, 3)
    low, high = options.events_per_clip
    others = rng.permutation([label for label in range(count) if label != first])
    return [first, *others[: rng.integers(low, high + 1) - 1].tolist()]


def _snr(snr: tuple[float, ...], rng: np.random.Generator) -> float:
    return float(rng.uniform(*snr) if len(snr) == 2 else rng.choice(snr))


def _cut(
    waveform: np.ndarray, longest: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """A random stretch of a recording that is too long, without quiet ends."""
    if len(waveform) <= longest:
        return waveform
    start = rng.integers(len(waveform) - longest + 1)
    cut = trim(waveform[start : start + longest], sample_rate)
    # A long pause may fill the whole stretch; the recording's beginning is never silent.
    return cut if len(cut) else trim(waveform[:longest], sample_rate)


def _repeat(waveform: np.ndarray, length: int) -> np.ndarray:
    """A recording at least `length` samples long, played as often as that takes."""
    return np.tile(waveform, -(-length // len(waveform)))


def _free_onset(
    taken: Sequence[int], length: int, samples: int, sample_rate: int, rng: np.random.Generator
) -> int | None:
    """A random onset that leaves 0.1 s to the same event's other onsets, None if 20 draws fail."""
    apart = length + sample_rate // 10
    for onset in rng.integers(samples - length + 1, size=20).tolist():
        if all(abs(onset - other) >= apart for other in taken):
            return onset
    return None


def listed(value: object) -> str:
    """An option's value as an error message shows it."""
    return " ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
