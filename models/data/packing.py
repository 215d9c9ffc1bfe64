"""Writes a corpus into one HDF5 pack: by many processes at once, and on where it was stopped.

HDF5 lays the file out first, all datasets contiguous. Workers then write each clip's samples to
their place themselves, and its length last: a clip without a length is still to be packed. Nothing
but HDF5's own creation of the file can leave it in a state that HDF5 cannot read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.data.audioset import write_strong_labels
from models.data.clips import Unreadable, cut_clip, seconds_to_read
from models.data.corpus import Corpus
from models.data.packs import INT16_SCALE
from models.data.segments import ClipSource
from models.data.shards import Shards
from models.errors import UserError

_NOT_YET = -1


@dataclass(frozen=True)
class PackOptions:
    """What to pack and how.

    Attributes:
        out: the pack.
        split: "train" or "eval".
        sample_rate: of the waveforms.
        seconds: samples of a row; shorter clips end in zeros, longer ones are cut.
        workers: processes that read audio.
    """

    out: Path
    split: str = "train"
    sample_rate: int = 32000
    seconds: float = 10.0
    workers: int = 0

    @property
    def part(self) -> Path:
        """The pack while it is written."""
        return self.out.with_name(f"{self.out.name}.part")

    @property
    def unreadable(self) -> Path:
        """The clips that could not be read, one a line: id and reason."""
        return self.out.with_name(f"{self.out.name}.unreadable.tsv")

    @property
    def cut(self) -> Path:
        """The ids of the clips that are longer than `seconds`, one a line."""
        return self.out.with_name(f"{self.out.name}.cut.txt")


@dataclass(frozen=True)
class Packed:
    """How many clips a pack has, could not have, and has the beginning of alone."""

    clips: int
    unreadable: int
    cut: int


@dataclass(frozen=True)
class _Layout:
    """Where a pack's datasets lie in its file, in bytes."""

    path: Path
    waveform: int
    length: int
    samples: int


@dataclass(frozen=True)
class _Cut:
    """A clip of which the beginning was written."""

    clip_id: str


@dataclass(frozen=True)
class _Failed:
    """A clip that could not be written."""

    reason: str


def pack_corpus(corpus: Corpus, options: PackOptions, progress: bool = True) -> Packed:
    """Write a pack, or what is left to write of it.

    Beside it go the class list and, for evaluation clips, the strong labels.

    Raises:
        UserError: a full disk or another pack of that name; what is written stays written.
    """
    clips = corpus.train if options.split == "train" else corpus.evaluation
    if isinstance(clips, Shards):
        raise UserError(f"{corpus.directory}: expected clips in files of their own, found shards")
    key = _key(corpus, clips, options)
    out = options.out
    with _reported(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            if not _begun(options.part, key):
                _create(options, corpus, clips, key)
            _fill(options, clips, progress)
            _write_companions(corpus, options)
            _finish(options.part, out)
    if not _begun(out, key):
        raise UserError(
            f"{out}: expected a new file or a pack of these clips, found another one: choose "
            "another --out"
        )
    with h5py.File(out, "r") as file:
        packed = int(np.count_nonzero(file["length"][:]))
    cut = set(options.cut.read_text().splitlines()) if options.cut.exists() else ()
    return Packed(packed, len(clips) - packed, len(cut))


@contextmanager
def _reported(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{out}: cannot be written ({reason}): make room and run the same command again, what "
            "is packed so far is kept"
        ) from error


def _key(corpus: Corpus, clips: ClipSource, options: PackOptions) -> str:
    """Changes with the clips, their labels, the classes and the form of the rows."""
    digest = hashlib.sha256()
    digest.update(repr((options.sample_rate, options.seconds, corpus.classes.mids)).encode())
    for clip in clips:
        digest.update(os.fsencode(f"{clip.clip_id} {clip.labels}\n"))
    return digest.hexdigest()


def _begun(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("key")
    except OSError as error:
        raise UserError(
            f"{path}: expected a pack, found a file that cannot be read: remove it"
        ) from error
    if found != key:
        raise UserError(
            f"{path}: in use by a pack of other clips, classes or options: choose another --out or "
            "remove it"
        )
    return True


def _create(options: PackOptions, corpus: Corpus, clips: ClipSource, key: str) -> None:
    """Lay the file out, with names and labels."""
    count, classes = len(clips), len(corpus.classes)
    samples = round(options.seconds * options.sample_rate)
    needed = count * (2 * samples + classes)
    free = shutil.disk_usage(options.out.parent).free
    if needed > free:
        raise UserError(
            f"{options.out}: the pack takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
            "make room or choose another --out"
        )
    fresh = options.part.with_name(f"{options.part.name}.new")
    try:
        with h5py.File(fresh, "w") as file:
            file.attrs["key"] = key
            file.attrs.create("sample_rate", options.sample_rate, dtype=np.int32)
            _contiguous(file, "waveform", (count, samples), h5py.h5t.STD_I16LE)
            _contiguous(file, "length", (count,), h5py.h5t.STD_I32LE)
            file["length"][:] = _NOT_YET
            ids = [os.fsencode(clip.clip_id) for clip in clips]
            file["clip_id"] = np.array(ids)
            file["audio_name"] = np.array([b"Y%s.wav" % name for name in ids])
            target = file.create_dataset("target", (count, classes), dtype=bool)
            for first in range(0, count, 1 << 14):
                rows = clips.labels[first : first + (1 << 14)]
                target[first : first + (1 << 14)] = rows.toarray()
        fresh.replace(options.part)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], kind: object) -> None:
    """A dataset whose place in the file is settled before anything is written to it."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), kind, space, creation)


def _fill(options: PackOptions, clips: ClipSource, progress: bool) -> None:
    with h5py.File(options.part, "r") as file:
        waveform, length = file["waveform"], file["length"]
        layout = _Layout(
            options.part, waveform.id.get_offset(), length.id.get_offset(), waveform.shape[1]
        )
        left = np.flatnonzero(length[:] == _NOT_YET)
    rows = DataLoader(
        _Rows(clips, layout, options),
        sampler=left.tolist(),
        batch_size=16,
        collate_fn=list,
        num_workers=options.workers,
    )
    with (
        options.unreadable.open("a", encoding="utf-8") as unreadable,
        options.cut.open("a", encoding="utf-8") as cut,
        tqdm(
            total=len(clips),
            initial=len(clips) - len(left),
            desc="packing",
            unit="clip",
            disable=None if progress else True,
        ) as bar,
    ):
        for results in rows:
            for result in results:
                if isinstance(result, _Failed):
                    raise OSError(result.reason)
                if isinstance(result, Unreadable):
                    unreadable.write(f"{result.clip_id}\t{result.reason}\n")
                if isinstance(result, _Cut):
                    cut.write(f"{result.clip_id}\n")
            bar.update(len(results))


class _Rows(Dataset["Unreadable | _Cut | _Failed | None"]):
    """Reading an item writes its clip into the pack."""

    def __init__(self, clips: ClipSource, layout: _Layout, options: PackOptions) -> None:
        self.clips = clips
        self.layout = layout
        self.options = options

    def __getitem__(self, row: int) -> Unreadable | _Cut | _Failed | None:
        clip, layout = self.clips[row], self.layout
        rate, seconds = self.options.sample_rate, self.options.seconds
        result: Unreadable | _Cut | None = None
        try:
            waveform = clip.load(rate, seconds_to_read(seconds))
        except UserError as error:
            waveform, result = torch.zeros(0), Unreadable(clip.clip_id, str(error))
        whole = cut_clip(waveform, torch.zeros(0), clip.clip_id, rate, seconds)
        if whole.is_cut:
            result = _Cut(clip.clip_id)
        samples = whole.waveform.numpy()
        scaled = np.rint(samples.clip(-1, 1) * INT16_SCALE).astype("<i2")[: layout.samples]
        padded = np.zeros(layout.samples, "<i2")
        padded[: len(scaled)] = scaled
        try:
            with layout.path.open("r+b") as file:
                place = layout.waveform + 2 * row * layout.samples
                _write(file.fileno(), padded.tobytes(), place)
                length = np.array(len(scaled), "<i4").tobytes()
                _write(file.fileno(), length, layout.length + 4 * row)
        except OSError as error:
            return _Failed(error.strerror or str(error))
        return result


def _write(file: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _finish(part: Path, out: Path) -> None:
    """Rows without sound lose their name, as in PANNs' packs; the file gets its own."""
    with h5py.File(part, "r+") as file:
        for row in np.flatnonzero(file["length"][:] == 0).tolist():
            file["audio_name"][row] = b""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(out)


def _write_companions(corpus: Corpus, options: PackOptions) -> None:
    """What a folder of packs needs beside them to be a corpus."""
    for names in (options.unreadable, options.cut):
        if names.exists() and not names.stat().st_size:
            names.unlink()
    folder = options.out.parent
    classes = folder / "class_labels_indices.csv"
    if not classes.exists():
        corpus.classes.write(classes)
    strong = folder / "eval_strong.tsv"
    if options.split == "eval" and corpus.strong and not strong.exists():
        events = (
            replace(event, clip_id=name)
            for name, clip_events in corpus.strong.items()
            for event in clip_events
        )
        write_strong_labels(strong, events, corpus.classes)
