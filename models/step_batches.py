"""How a step's clips are shared among processes, and where an interrupted epoch goes on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch.utils.data import Sampler

from models.data.sampling import TurnsSampler


class StepBatches(Sampler[list[int]]):
    """One process's pieces of each step's clips, in the order of their turns.

    A step learns from one batch of `batches`, whatever the number of processes: it is cut into
    `processes` times `accumulate` runs of neighbours, each about as balanced as the batch is.

    Args:
        batches: each step's clips; its batch size is a multiple of the number of pieces.
        rank: of this process.
        processes: how many share a step.
        accumulate: pieces of a step that a process takes one after the other.
        start: steps of the first epoch that are done already.
    """

    def __init__(
        self,
        batches: TurnsSampler,
        rank: int = 0,
        processes: int = 1,
        accumulate: int = 1,
        start: int = 0,
    ) -> None:
        if batches.batch_size % (processes * accumulate):
            raise ValueError(
                f"batches: expected a batch size that is a multiple of {processes * accumulate}, "
                f"got {batches.batch_size}"
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
        size = self.batches.batch_size // (self.processes * self.accumulate)
        for batch in islice(self.batches, self.start, None):
            for turn in range(self.accumulate):
                first = (turn * self.processes + self.rank) * size
                yield batch[first : first + size]
