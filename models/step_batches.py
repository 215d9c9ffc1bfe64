"""How a step's clips are shared among processes, and where an interrupted epoch goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch.utils.data import Sampler

from models.data.part_batches import PartBatches
from models.data.sampling import BalancedBatchSampler


class StepBatches(Sampler[list[int]]):
    """One process's pieces of each step's clips, in the order of their turns.

    A step learns from one batch of `batches`, whatever the number of processes: it is cut into
    `processes` times `accumulate` runs of neighbours, each about as balanced as the batch is. A
    batch of several parts is cut part by part.

    Args:
        batches: each step's clips; the size of each part is a multiple of the number of pieces.
        rank: of this process.
        processes: how many share a step.
        accumulate: pieces of a step that a process takes one after the other.
        start: steps of the first epoch that are done already.
    """

    def __init__(
        self,
        batches: BalancedBatchSampler | PartBatches,
        rank: int = 0,
        processes: int = 1,
        accumulate: int = 1,
        start: int = 0,
    ) -> None:
        pieces = processes * accumulate
        for size in part_sizes(batches):
            if size % pieces:
                raise ValueError(
                    f"batches: expected a batch size that is a multiple of {pieces}, got {size}"
                )
        self.batches = batches
        self.rank = rank
        self.processes = processes
        self.accumulate = accumulate
        self.start = start

    @property
    def sampler(self) -> StepBatches:
        """Itself: training loops call `set_epoch` on the sampler inside a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; another than before begins at 0."""
        if epoch != self.batches.epoch:
            self.start = 0
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        """Pieces in a whole epoch, those that are done already among them."""
        return len(self.batches) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        sizes = part_sizes(self.batches)
        for batch in islice(self.batches, self.start, None):
            for turn in range(self.accumulate):
                yield self._piece(batch, sizes, turn * self.processes + self.rank)

    def _piece(self, batch: list[int], sizes: Sequence[int], number: int) -> list[int]:
        piece: list[int] = []
        begin = 0
        for size in sizes:
            share = size // (self.processes * self.accumulate)
            piece += batch[begin + number * share : begin + (number + 1) * share]
            begin += size
        return piece


def part_sizes(batches: BalancedBatchSampler | PartBatches) -> tuple[int, ...]:
    """Clips of each part in a batch."""
    return batches.sizes if isinstance(batches, PartBatches) else (batches.batch_size,)
