"""The audio files under a folder, found by the stem of their names, millions of them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from models.data.segments import AudioNames, TextBuilder
from models.data.tables import kind
from models.errors import UserError

# RAW needs a sample rate that no file carries; the others are common names of listed formats.
AUDIO_SUFFIXES = frozenset(
    {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    | {".aif", ".oga", ".opus", ".snd", ".wave"}
)


class AudioFiles:
    """Every audio file under `directory`, in the order of folders and names.

    Stems are compared by their 64-bit hashes: among millions of names, the chance that two are
    taken for one another is about one in a million.

    Attributes:
        directory: where they were looked for.
        names: their paths.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise UserError(
                f"{directory}: expected a folder of audio files, found {kind(directory)}"
            )
        folders: list[str] = []
        folder, hashes, timed, names = array("i"), array("q"), array("q"), TextBuilder()
        for path, children, files in os.walk(directory, followlinks=True):
            children.sort()
            parts = ((*os.path.splitext(name), name) for name in sorted(files))  # noqa: PTH122
            kept = [(stem, name) for stem, end, name in parts if end.lower() in AUDIO_SUFFIXES]
            names.extend([name for _, name in kept])
            hashes.extend([hash(stem) for stem, _ in kept])
            timed.extend([hash(head) for stem, _ in kept for head in _without_times(stem)])
            folder.extend([len(folders)] * len(kept))
            folders.append(path)
        self.directory = directory
        self.names = AudioNames(tuple(folders), np.asarray(folder), names.packed())
        hashed = np.asarray(hashes)
        self._order = np.argsort(hashed, kind="stable").astype(np.int32)
        self._hashes = hashed[self._order]
        self._timed = np.unique(np.asarray(timed))

    def __len__(self) -> int:
        return len(self._order)

    def find(self, stems: Sequence[str]) -> np.ndarray:
        """The first file of each stem, an index into `names` or -1: (stems,) int32."""
        place, there = _look_up(self._hashes, stems)
        found = np.full(len(stems), -1, dtype=np.int32)
        found[there] = self._order[place[there]]
        return found

    def with_times(self, beginnings: Sequence[str]) -> np.ndarray:
        """Whether a file is named `{beginning}_{number}` or `{beginning}_{number}_{number}`."""
        return _look_up(self._timed, beginnings)[1]


def _without_times(stem: str) -> list[str]:
    """The stem without one number and without two at its end, where it has them."""
    heads: list[str] = []
    for _ in range(2):
        stem, _, tail = stem.rpartition("_")
        if not tail.replace(".", "", 1).isdecimal():
            break
        heads.append(stem)
    return heads


def _look_up(table: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Place of each text's hash in a sorted table, and whether it is there."""
    hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
    place = np.empty(len(texts), dtype=np.int64)
    # In order, so that neighbours in the table are read one after the other.
    order = np.argsort(hashes)
    place[order] = np.searchsorted(table, hashes[order])
    there = place < len(table)
    there[there] = table[place[there]] == hashes[there]
    return place, there
