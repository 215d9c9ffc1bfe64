"""Mini-batches of so many clips of each part of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from models.data.sampling import BalancedBatchSampler

_EPOCHS_APART = 1 << 20
"""A part that ends before the epoch does begins anew, in an order of its own."""


class PartBatches(Sampler[list[int]]):
    """Mini-batches with `sizes[i]` clips of part i, one part after the other.

    Each part is drawn by a `BalancedBatchSampler`. An epoch is one pass through the first parts,
    those with labels, at the pace of the one that takes longest.

    Args:
        samplers: of each part; their indices count from 0 in it.
        indices: the clips of each part.
        labelled: how many of the parts, the first, an epoch goes through.
    """

    def __init__(
        self,
        samplers: Sequence[BalancedBatchSampler],
        indices: Sequence[np.ndarray],
        labelled: int,
    ) -> None:
        self.samplers = list(samplers)
        self.indices = list(indices)
        self.sizes = tuple(sampler.batch_size for sampler in samplers)
        self.batch_size = sum(self.sizes)
        self._length = max(
            math.ceil(len(part) / size)
            for part, size in zip(self.indices[:labelled], self.sizes[:labelled], strict=True)
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        parts = [
            _endless(sampler, indices, self.epoch)
            for sampler, indices in zip(self.samplers, self.indices, strict=True)
        ]
        for _ in range(len(self)):
            yield [index for part in parts for index in next(part)]


def _endless(sampler: BalancedBatchSampler, indices: np.ndarray, epoch: int) -> Iterator[list[int]]:
    for turn in count():
        sampler.set_epoch(epoch + turn * _EPOCHS_APART)
        for batch in sampler:
            yield indices[batch].tolist()
