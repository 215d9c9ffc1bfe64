"""Mixes a corpus of weakly labelled clips from sound events and noise, in AudioSet's format.

Every clip depends on (seed, split, index) and the options alone, so that an interrupted run goes
on where it stopped. Training and evaluation clips are different mixes of the same recordings: a
bank of a few recordings per class cannot hold any out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

import milkernels
from models.data.audioset import (
    INCOMPLETE,
    Segment,
    StrongLabel,
    clip_id,
    write_segments,
    write_strong_labels,
)
from models.data.events import EventBank, background, read_event_bank, synthesise_event_bank
from models.data.tables import kind, write_whole
from models.errors import UserError

SPLITS = ("train", "eval")
RECORD = "corpus.json"
PEAK = 0.95
SHORT_EVENT = 1.0
"""Events shorter than this, in seconds, may occur up to three times in a clip."""


@dataclass(frozen=True)
class MixOptions:
    """What to mix.

    `events` is a folder of recordings with an `events.csv`; None stands for synthetic sounds.
    `snr` holds the level of an event against the background under it, in dB: one value, the two
    ends of a range, or three values and more to draw from. `events_per_clip` is the least and
    the largest number of different classes in a clip.
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
            (1 <= self.seconds <= 3600, "--seconds", "1 to 3600", self.seconds),
            (1 <= low <= high, "--events-per-clip", "1 <= MIN <= MAX", self.events_per_clip),
            (self.format in ("flac", "wav"), "--format", "flac or wav", self.format),
        )
        for good, option, expected, found in checks:
            if not good:
                raise UserError(f"{option}: expected {expected}, found {_listed(found)}")


@dataclass(frozen=True)
class Placed:
    """One occurrence of an event in a clip, in samples."""

    label: int
    onset: int
    waveform: np.ndarray
    snr: float


def mix_corpus(options: MixOptions, progress: bool = True) -> Path:
    """Write the corpus, or what an interrupted run left to write, and return its folder.

    A finished corpus of the same options is left as it is. UserError names an option or a
    recording that cannot be used, or a folder that something else occupies.
    """
    options.check()
    bank = _bank(options)
    record = _record(options, bank)
    if _begin(options.out, record):
        return options.out
    total = options.train + options.evaluation
    with tqdm(total=total, desc="mixing", unit="clip", disable=not progress) as bar:
        segments: dict[str, list[Segment]] = {}
        strong: list[StrongLabel] = []
        for split, clips in zip(SPLITS, (options.train, options.evaluation), strict=True):
            (options.out / "audio" / split).mkdir(parents=True, exist_ok=True)
            segments[split] = []
            for index in range(clips):
                segment, events = _write_clip(bank, options, split, index)
                segments[split].append(segment)
                strong += events if split == "eval" else []
                bar.update()
    bank.classes.write(options.out / "class_labels_indices.csv")
    for split in SPLITS:
        write_segments(options.out / f"{split}_segments.csv", segments[split], bank.classes)
    write_strong_labels(options.out / "eval_strong.tsv", strong, bank.classes)
    write_whole(options.out / RECORD, _json(record))
    (options.out / INCOMPLETE).unlink()
    return options.out


def is_finished(directory: Path) -> bool:
    """Whether `directory` holds a corpus that `mix_corpus` has finished."""
    return (directory / RECORD).exists() and not (directory / INCOMPLETE).exists()


def plan_clip(bank: EventBank, options: MixOptions, split: str, index: int) -> list[Placed]:
    """The events of a clip, in order of onset; no class overlaps itself."""
    rng = _generator(options, split, index, 0)
    samples = round(options.seconds * options.sample_rate)
    placed: list[Placed] = []
    for label in _classes(bank, options, split, index):
        recordings = bank.by_class[label]
        event = recordings[rng.integers(len(recordings))]
        waveform = _cut(event.waveform(options.sample_rate), samples // 2, options.sample_rate, rng)
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


def _bank(options: MixOptions) -> EventBank:
    if options.events is None:
        bank = synthesise_event_bank(options.sample_rate, options.seed)
    else:
        bank = read_event_bank(options.events)
    most = options.events_per_clip[1]
    if most > len(bank.classes):
        raise UserError(
            f"--events-per-clip: the bank has {len(bank.classes)} classes, fewer than {most}: "
            "ask for fewer or add recordings of other classes"
        )
    return bank


def _record(options: MixOptions, bank: EventBank) -> dict[str, Any]:
    return {
        "options": {
            "train": options.train,
            "eval": options.evaluation,
            "seed": options.seed,
            "snr": list(options.snr),
            "sample_rate": options.sample_rate,
            "seconds": options.seconds,
            "events_per_clip": list(options.events_per_clip),
            "format": options.format,
            "bank": bank.digest,
        },
        "classes": len(bank.classes),
        "recordings": len(bank.events),
        "version": milkernels.__version__,
    }


def _begin(out: Path, record: dict[str, Any]) -> bool:
    """Claim the output folder; True where the corpus is there already."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder to write to, found {kind(out)}")
    marker = out / INCOMPLETE
    found = next((path for path in (marker, out / RECORD) if path.exists()), None)
    # A run may stop while it writes the marker: what that leaves is still an empty folder.
    occupied = out.exists() and any(path.name != f"{INCOMPLETE}.part" for path in out.iterdir())
    if found is None and occupied:
        raise UserError(
            f"{out}: output folder in use: expected a new or empty folder or a corpus mixed "
            "there before: choose another --out"
        )
    if found is None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(marker, _json(record))
        return False
    before = _read_record(found)
    changed = _changes(before, record)
    if changed:
        raise UserError(
            f"{out}: output folder in use by a corpus mixed differently ({changed}): repeat its "
            "options, choose another --out or remove the folder"
        )
    return found != marker


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record["options"], dict):
            raise TypeError("options")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: output folder in use: expected the record of a mixed corpus, found "
            "something else: choose another --out"
        ) from error
    return record


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first option that differs, as `name: before, now`; empty where none does."""
    names = [*now["options"], *(name for name in before["options"] if name not in now["options"])]
    for name in names:
        old, new = before["options"].get(name), now["options"].get(name)
        if old != new:
            return f"{name}: {_listed(old)} there, {_listed(new)} now"
    return ""


def _write_clip(
    bank: EventBank, options: MixOptions, split: str, index: int
) -> tuple[Segment, list[StrongLabel]]:
    plan = plan_clip(bank, options, split, index)
    ytid = f"{split}-{index:06d}"
    path = options.out / "audio" / split / f"{ytid}.{options.format}"
    if not path.exists():
        data = io.BytesIO()
        clip = render_clip(plan, options, split, index)
        soundfile.write(data, clip, options.sample_rate, "PCM_16", format=options.format)
        write_whole(path, data.getvalue())
    name = clip_id(ytid, 0.0)
    rate = options.sample_rate
    events = [
        StrongLabel(name, e.onset / rate, (e.onset + len(e.waveform)) / rate, e.label) for e in plan
    ]
    labels = tuple(sorted({event.label for event in plan}))
    return Segment(name, path, 0.0, options.seconds, labels), events


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
    """A random stretch of a recording that is too long, its cut ends faded over 10 ms."""
    if len(waveform) <= longest:
        return waveform
    start = rng.integers(len(waveform) - longest + 1)
    cut = waveform[start : start + longest].copy()
    ramp = np.linspace(0, 1, sample_rate // 100, dtype=np.float32)
    cut[: len(ramp)] *= ramp
    cut[-len(ramp) :] *= ramp[::-1]
    return cut


def _free_onset(
    taken: Sequence[int], length: int, samples: int, sample_rate: int, rng: np.random.Generator
) -> int | None:
    """A random onset that leaves 0.1 s to the same event's other onsets, None if 20 draws fail."""
    apart = length + sample_rate // 10
    for onset in rng.integers(samples - length + 1, size=20).tolist():
        if all(abs(onset - other) >= apart for other in taken):
            return onset
    return None


def _json(record: dict[str, Any]) -> bytes:
    return f"{json.dumps(record, indent=2)}\n".encode()


def _listed(value: object) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
