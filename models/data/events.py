"""Banks of sound events and the noise backgrounds that they are mixed into.

A bank is a folder of recordings with an `events.csv`, or eight kinds of synthetic sounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import soundfile

from models.data.audio import load_audio, unreadable
from models.data.classes import ClassList
from models.data.tables import kind, read_rows, shown
from models.errors import UserError

EVENT_COLUMNS = ("filename", "mid", "display_name")
TRIM_DB = 24.0
"""A recording begins and ends where it is within this many decibels of its loudest 10 ms."""
LONGEST = 60.0
"""Seconds of a recording that are used."""


@dataclass(frozen=True, eq=False)
class Event:
    """One recording of a class: an audio file, or a float32 waveform (samples,)."""

    mid: str
    name: str
    source: Path | np.ndarray


@dataclass(frozen=True, eq=False)
class EventBank:
    """Recordings of several classes; `digest` changes whenever their number or contents do."""

    events: tuple[Event, ...]
    sample_rate: int
    digest: str

    def waveform(self, event: Event) -> np.ndarray:
        """An event's recording without its quiet ends, (samples,) float32, a minute at most.

        UserError names a file that cannot be read or is silent.
        """
        return event.source if isinstance(event.source, np.ndarray) else self._load(event.source)

    @cached_property
    def _load(self) -> Callable[[Path], np.ndarray]:
        return lru_cache(maxsize=128)(partial(_recording, sample_rate=self.sample_rate))

    @cached_property
    def classes(self) -> ClassList:
        """The classes in order of their first recording."""
        names = {event.mid: event.name for event in reversed(self.events)}
        mids = tuple(dict.fromkeys(event.mid for event in self.events))
        return ClassList(mids, tuple(names[mid] for mid in mids))

    @cached_property
    def by_class(self) -> tuple[tuple[Event, ...], ...]:
        """The recordings of each class."""
        return tuple(
            tuple(event for event in self.events if event.mid == mid) for mid in self.classes.mids
        )


def read_event_bank(directory: Path, sample_rate: int = 16000) -> EventBank:
    """Read a folder of recordings listed in its `events.csv` (filename, mid, display_name).

    Further columns are ignored. UserError names a missing table, column or file, a value that
    cannot be used, or an audio file whose header cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a folder of recordings, found {kind(directory)}")
    table = directory / "events.csv"
    rows = read_rows(table)
    _, header = next(rows, (0, []))
    for column in EVENT_COLUMNS:
        if column not in header:
            raise UserError(
                f"{table}: expected the columns {', '.join(EVENT_COLUMNS)} in line 1, "
                f"found {shown(header) or 'nothing'}"
            )
    events: list[Event] = []
    names: dict[str, str] = {}
    digest = hashlib.sha256()
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{table}, line {line}: expected {len(header)} values, found {shown(row)}"
            )
        filename, mid, name = (row[header.index(column)] for column in EVENT_COLUMNS)
        if not filename or not mid or not name or set(mid) & set(' ,\t"'):
            raise UserError(
                f"{table}, line {line}: expected a file name, a class id without spaces, commas "
                f"and quotes, and a class name, found {shown([filename, mid, name])}"
            )
        if names.setdefault(mid, name) != name:
            raise UserError(
                f"{table}, line {line}: {mid} is called {name} here and {names[mid]} above: "
                "give it one name"
            )
        events.append(Event(mid, name, directory / filename))
        digest.update(f"{filename}\t{mid}\t{name}\t{_header(directory / filename)}\n".encode())
    if not events:
        raise UserError(f"{table}: expected rows of recordings, found none")
    return EventBank(tuple(events), sample_rate, digest.hexdigest())


def synthesise_event_bank(sample_rate: int, seed: int, variants: int = 6) -> EventBank:
    """Eight classes of synthetic sounds, from a chirp of 0.2 s to an engine of 5 s.

    They carry ids and names of AudioSet classes that they resemble. The same arguments give the
    same bank, and each class has `variants` recordings.
    """
    events = []
    for number, ((mid, name), sound) in enumerate(_SOUNDS.items()):
        for variant in range(variants):
            rng = np.random.default_rng([seed, number, variant])
            samples = trim(sound(rng, sample_rate), sample_rate)
            events.append(Event(mid, name, (samples / np.abs(samples).max()).astype(np.float32)))
    digest = f"synthetic sounds: {variants} per class, seed {seed}, {sample_rate} Hz"
    return EventBank(tuple(events), sample_rate, digest)


def trim(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Cut the quiet ends off a recording (samples,) and fade what is left in and out over 5 ms.

    Nothing is left of a silent recording.
    """
    frame = sample_rate // 100
    if not len(samples):
        return samples
    frames = np.pad(samples, (0, -len(samples) % frame), mode="edge").reshape(-1, frame)
    # The variance leaves out a constant offset and rumble too low to be heard.
    power = frames.var(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    if not len(loud):
        return samples[:0]
    kept = samples[loud[0] * frame : (loud[-1] + 1) * frame].copy()
    edge = min(len(kept) // 2, sample_rate // 200)
    ramp = np.linspace(0, 1, edge, endpoint=False, dtype=kept.dtype)
    kept[:edge] *= ramp
    kept[len(kept) - edge :] *= ramp[::-1]
    return kept


def _recording(path: Path, sample_rate: int) -> np.ndarray:
    samples = trim(load_audio(path, sample_rate, LONGEST).numpy(), sample_rate)
    if not len(samples):
        raise UserError(f"{path}: expected a sound, but the recording is silent: leave it out")
    return samples


def _header(path: Path) -> str:
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return f"{info.frames}/{info.samplerate}/{path.stat().st_size}"


def _time(seconds: float, sample_rate: int) -> np.ndarray:
    return np.arange(round(seconds * sample_rate)) / sample_rate


def _glide(
    frequency: np.ndarray | float, sample_rate: int, harmonics: int, t: np.ndarray
) -> np.ndarray:
    """A tone of changing frequency with the harmonics that fit below the Nyquist frequency."""
    frequency = np.broadcast_to(frequency, t.shape)
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    numbers = [n for n in range(1, harmonics + 1) if n * frequency.max() < 0.45 * sample_rate]
    return sum((np.sin(n * phase) / n for n in numbers), np.zeros_like(t))


def _siren(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    t = _time(rng.uniform(3.0, 4.5), sample_rate)
    sweep = 1 - np.cos(2 * np.pi * t / rng.uniform(0.8, 1.8))
    return _glide(rng.uniform(500, 700) * (1 + sweep / 2), sample_rate, 4, t)


def _beep(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    t = _time(rng.uniform(0.25, 0.4), sample_rate)
    return _glide(rng.uniform(900, 1600), sample_rate, 1, t)


def _ding(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    t = _time(rng.uniform(1.5, 2.5), sample_rate)
    base, damping = rng.uniform(600, 900), rng.uniform(0.6, 1.5)
    partials = ((1.0, 1.0, 3.0), (2.76, 0.6, 5.0), (5.4, 0.3, 8.0))
    return sum(
        (
            gain * np.exp(-damping * decay * t) * np.sin(2 * np.pi * ratio * base * t)
            for ratio, gain, decay in partials
            if ratio * base < 0.45 * sample_rate
        ),
        np.zeros_like(t),
    )


def _knock(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    gap = rng.uniform(0.16, 0.26)
    t = _time(gap * rng.integers(3, 6), sample_rate)
    since = t % gap
    body = np.sin(2 * np.pi * rng.uniform(140, 260) * since) * np.exp(-since * 45)
    return body + 0.5 * rng.standard_normal(len(t)) * np.exp(-since * 200)


def _hiss(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    t = _time(rng.uniform(1.5, 3.5), sample_rate)
    low = rng.uniform(0.2, 0.3) * sample_rate
    noise = shaped_noise(
        rng, len(t), lambda f: 1 / (1 + (low / np.maximum(f * sample_rate, 1)) ** 8)
    )
    return noise * np.minimum(1, t / 0.2) * np.exp(-0.4 * t)


def _chirp(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    length = rng.uniform(0.07, 0.12)
    t = _time(length * rng.integers(2, 4), sample_rate)
    place = t % length / length
    top = min(rng.uniform(4500, 6500), 0.42 * sample_rate)
    return _glide(top * (1 - 0.45 * place), sample_rate, 1, t) * np.sin(np.pi * place)


def _engine(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    t = _time(rng.uniform(3.5, 5.0), sample_rate)
    base = rng.uniform(55, 110) * (1 + 0.05 * np.sin(2 * np.pi * t * rng.uniform(0.2, 0.6)))
    firing = 1 + 0.4 * np.sin(2 * np.pi * t * rng.uniform(8, 14))
    return _glide(base, sample_rate, 12, t) * firing


def _dialing(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    step = rng.uniform(0.15, 0.2)
    t = _time(step * rng.integers(5, 9), sample_rate)
    digit = (t // step).astype(int)
    rows = rng.choice([697, 770, 852, 941], digit[-1] + 1)[digit]
    columns = rng.choice([1209, 1336, 1477], digit[-1] + 1)[digit]
    tones = np.sin(2 * np.pi * rows * t) + np.sin(2 * np.pi * columns * t)
    return tones * (t % step < 0.6 * step)


_Sound = Callable[[np.random.Generator, int], np.ndarray]
_SOUNDS: dict[tuple[str, str], _Sound] = {
    ("/m/03kmc9", "Siren"): _siren,
    ("/m/02fs_r", "Beep, bleep"): _beep,
    ("/m/07phxs1", "Ding"): _ding,
    ("/m/07r4wb8", "Knock"): _knock,
    ("/m/07rjwbb", "Hiss"): _hiss,
    ("/m/07pggtn", "Chirp, tweet"): _chirp,
    ("/m/02mk9", "Engine"): _engine,
    ("/m/02c8p", "Telephone dialing, DTMF"): _dialing,
}


def shaped_noise(
    rng: np.random.Generator, samples: int, response: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise (samples,) with the amplitude response(frequency), in cycles per sample."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * response(np.fft.rfftfreq(samples)), samples)


def _coloured(exponent: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Noise whose power falls with frequency to the `exponent`, level below 1/400 of the rate."""
    return lambda rng, samples: shaped_noise(
        rng, samples, lambda frequency: np.maximum(frequency, 1 / 400) ** (-exponent / 2)
    )


BACKGROUNDS = {"white": _coloured(0), "pink": _coloured(1), "brown": _coloured(2)}
"""Makers of background noise: (generator, samples) to a waveform (samples,)."""


def background(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """One of `BACKGROUNDS` with a slowly changing level, (samples,) of unit power."""
    noise = BACKGROUNDS[rng.choice(list(BACKGROUNDS))](rng, samples)
    t = np.arange(samples) / sample_rate
    waves = (np.sin(2 * np.pi * (rng.uniform(0.05, 0.4) * t + rng.uniform())) for _ in range(3))
    noise *= 1 + rng.uniform(0, 0.2) * sum(waves)
    return noise / np.sqrt(np.mean(noise**2))
