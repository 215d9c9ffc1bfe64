"""WebDataset's shards: tar files of clips that are read from beginning to end.

A clip is two files of a shard with the same name: the encoded sound, in any format that libsndfile
reads, and a `.json` with an object whose `labels` are machine ids, class names or class indices.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys

from models.data.audio import decode_audio
from models.data.audio_files import AUDIO_SUFFIXES
from models.data.classes import ClassList
from models.data.clips import Clip, Unreadable, cut_clip, seconds_to_read
from models.data.labels import target_of
from models.errors import UserError

_BUFFER = 256
"""Encoded clips that are shuffled among one another in each worker process."""


@dataclass(frozen=True)
class Shards:
    """The shards of one split."""

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class StreamOptions:
    """How clips are read from shards.

    Attributes:
        sample_rate: of the waveforms.
        seconds: the longest a clip may be.
        strict: let a clip that cannot be read raise UserError instead of giving `Unreadable`.
    """

    sample_rate: int
    seconds: float
    strict: bool = False


class ClipStream(IterableDataset["Clip | Unreadable"]):
    """The clips of some shards, once, in order; worker processes take every so many-th shard."""

    def __init__(self, shards: Sequence[Path], classes: ClassList, options: StreamOptions) -> None:
        self.shards = list(shards)
        self.classes = classes
        self.options = options
        self._columns = {name: index for index, name in enumerate(classes.names)}
        self._columns |= {mid: index for index, mid in enumerate(classes.mids)}

    def __iter__(self) -> Iterator[Clip | Unreadable]:
        worker, workers = _worker()
        yield from self.decoded(
            sample for shard in self.shards[worker::workers] for sample in _samples(shard)
        )

    def decoded(
        self, samples: Iterable[dict[str, Any] | Unreadable]
    ) -> Iterator[Clip | Unreadable]:
        """Samples as clips."""
        for sample in samples:
            try:
                if isinstance(sample, Unreadable):
                    raise UserError(sample.reason)
                yield self._decode(sample)
            except UserError as error:
                if self.options.strict:
                    raise UserError(f"{error} (--strict)") from error
                name = sample.clip_id if isinstance(sample, Unreadable) else sample["__key__"]
                yield Unreadable(str(name), str(error))

    def _decode(self, sample: dict[str, Any]) -> Clip:
        name, where = str(sample["__key__"]), f"{sample['__url__']}, {sample['__key__']}"
        sound = next((sample[end] for end in sample if f".{end}" in AUDIO_SUFFIXES), None)
        if sound is None:
            raise UserError(f"{where}: expected a sound file, found none")
        try:
            labels = json.loads(sample["json"])["labels"]
            columns = {self._column(label) for label in labels}
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{where}: expected a .json with the labels, of the class list ({error!r})"
            ) from error
        options = self.options
        seconds = seconds_to_read(options.seconds)
        waveform = decode_audio(sound, options.sample_rate, seconds, where)
        target = target_of(sorted(columns), len(self.classes))
        return cut_clip(waveform, target, name, options.sample_rate, options.seconds)

    def _column(self, label: str | int) -> int:
        if isinstance(label, int) and 0 <= label < len(self.classes):
            return label
        return self._columns[str(label)]


class ShuffledClips(ClipStream):
    """The clips of some shards without end, shuffled, disjoint over processes and workers.

    Each pass shuffles the shards and deals them to the processes, and there to the workers. The
    order depends on (seed, epoch) and the numbers of processes and workers alone, so that an
    epoch can begin after some of its batches; what they held is read and not decoded.

    Args:
        shards, classes, options: as for `ClipStream`; shards enough for every worker to have one.
        batch_size: clips that a worker hands over together.
        seed: of the order.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        classes: ClassList,
        options: StreamOptions,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(shards, classes, options)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[Clip | Unreadable]:
        worker, workers = _worker()
        # Workers hand batches over in turn: what follows `start` batches is another one's turn.
        turn = (worker + self.start) % workers
        done = len(range(turn, self.start, workers))
        rng = random.Random(f"{self.seed} {self.epoch} {self.rank} {turn}")
        samples = webdataset.shuffle(_BUFFER, initial=_BUFFER, rng=rng)(
            self._endless(turn, workers)
        )
        yield from self.decoded(islice(samples, done * self.batch_size, None))

    def _endless(self, turn: int, workers: int) -> Iterator[dict[str, object] | Unreadable]:
        for number in count():
            order = np.random.default_rng([self.seed, self.epoch, number])
            dealt = order.permutation(len(self.shards))[self.rank :: self.processes]
            for index in dealt[turn::workers].tolist():
                yield from _samples(self.shards[index])


def _samples(shard: Path) -> Iterator[dict[str, object] | Unreadable]:
    """A shard's samples, files by type; after them, what kept it from being read to its end."""
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    try:
        yield from group_by_keys(_members(shard), handler=note)
    except Exception as error:  # of noise, nearly anything
        errors.append(error)
    if errors:
        said = errors[0].args[:1] or (type(errors[0]).__name__,)
        reason = f"{shard}: cannot be read to its end ({said[0]}): replace it"
        yield Unreadable(shard.name, reason)


def _members(shard: Path) -> Iterator[dict[str, object]]:
    """A shard's files. None is larger than the shard: what is packed or sparse could fill the
    memory."""
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as opened:
        members: Any = opened  # its list of members is no part of its annotations
        size = shard.stat().st_size
        for member in members:
            if not member.isreg():
                continue
            if member.size > size:
                raise ValueError(f"{member.name} is longer than its shard")
            data = members.extractfile(member).read()
            yield {"fname": member.name, "data": data, "__url__": str(shard)}
            # Names of the files that are done would add up.
            members.members = []


def _worker() -> tuple[int, int]:
    """Number of this worker process, and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
