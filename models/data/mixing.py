"""Mixes a corpus of weakly labelled clips from sound events and noise, in AudioSet's format.

Every clip depends on (seed, split, index) and the options alone, so that an interrupted run goes
on where it stopped. Training and evaluation clips are different mixes of the same recordings: a
bank of a few recordings per class cannot hold any out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

import milkernels
from models.data.audioset import (
    INCOMPLETE,
    StrongLabel,
    clip_id,
    write_segments,
    write_strong_labels,
)
from models.data.events import EventBank, read_event_bank, synthesise_event_bank
from models.data.scenes import SPLITS, MixOptions, listed, plan_clip, render_clip
from models.data.segments import Segment
from models.data.tables import kind, write_whole
from models.errors import UserError

RECORD = "corpus.json"


def mix_corpus(options: MixOptions, progress: bool = True) -> Path:
    """Write the corpus, or what an interrupted run left to write, and return its folder.

    A finished corpus of the same options is left as it is. UserError names an option or a
    recording that cannot be used, or a folder that something else occupies.
    """
    options.check()
    bank = _bank(options)
    record = _record(options, bank)
    begun = _claim(options.out, record)
    if is_finished(options.out):
        return options.out
    if not begun:
        # A recording that cannot be used should show before anything is written.
        for event in tqdm(bank.events, desc="recordings", disable=not progress, leave=False):
            bank.waveform(event)
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(options.out / INCOMPLETE, _json(record))
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


def _bank(options: MixOptions) -> EventBank:
    if options.events is None:
        bank = synthesise_event_bank(options.sample_rate, options.seed)
    else:
        bank = read_event_bank(options.events, options.sample_rate)
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
            "durations": list(options.durations),
            "format": options.format,
            "bank": bank.digest,
        },
        "events": "synthetic" if options.events is None else str(options.events),
        "classes": len(bank.classes),
        "recordings": len(bank.events),
        "version": milkernels.__version__,
    }


def _claim(out: Path, record: dict[str, Any]) -> bool:
    """Whether this corpus is in `out` already, in part or whole; UserError where another is."""
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
        return False
    before = _read_record(found)
    # Clips of two versions may differ, so only the version that began a corpus goes on with it.
    names = ("options", "version") if found == marker else ("options",)
    changed = _changes(before, record, names)
    if changed:
        raise UserError(
            f"{out}: output folder in use by a corpus mixed differently ({changed}): repeat its "
            "options, choose another --out or remove the folder"
        )
    return True


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


def _changes(before: dict[str, Any], now: dict[str, Any], parts: Sequence[str]) -> str:
    """The first part that differs, or the first option; empty where none does."""
    for part in parts:
        old, new = before.get(part), now[part]
        if isinstance(old, dict):
            if change := _changes(old, new, list(new)):
                return change
        elif old != new:
            return f"{part}: {listed(old)} there, {listed(new)} now"
    return ""


def _write_clip(
    bank: EventBank, options: MixOptions, split: str, index: int
) -> tuple[Segment, list[StrongLabel]]:
    plan = plan_clip(bank, options, split, index)
    ytid = f"{split}-{index:06d}"
    path = options.out / "audio" / split / f"{ytid}.{options.format}"
    # Renamed into place when complete; a crash of the machine may still leave it empty.
    if not path.exists() or not path.stat().st_size:
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


def _json(record: dict[str, Any]) -> bytes:
    return f"{json.dumps(record, indent=2)}\n".encode()
