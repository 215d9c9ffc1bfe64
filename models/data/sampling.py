"""Which clips go together: class-balanced mini-batches and a stratified held-out part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array
from torch.utils.data import Sampler

from models.data.labels import Labels, label_matrix, matrix_from_counts

BALANCING = {"round_robin": 1, "ratio": 5}
"""`max_ratio` by the name of the rule: Wang et al., 2019, and Xu et al., 2018."""


class TurnsSampler(Sampler[list[int]]):
    """Mini-batches in which groups of clips take turns.

    Each group has a shuffled queue of its clips that refills when empty. An epoch depends on (seed,
    epoch) alone.

    Args:
        groups: the clips of each, not empty.
        batch_size: clips in a mini-batch.
        batches: mini-batches in an epoch.
        seed: of the order.
    """

    def __init__(
        self, groups: Sequence[np.ndarray], batch_size: int, batches: int, seed: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected at least 0, got {seed}")
        self._groups = groups
        self._batches = batches
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def next_round(self, rng: np.random.Generator, last: np.ndarray | None) -> np.ndarray:
        """The groups whose turns make the next round; `last` is the round before, None at first."""
        raise NotImplementedError

    @property
    def sampler(self) -> TurnsSampler:
        """Itself: training loops call `set_epoch` on the sampler inside a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        turns = self.next_round(rng, None)
        queues: list[np.ndarray] = [np.empty(0, dtype=np.int32) for _ in self._groups]
        left = [0] * len(queues)
        turn = 0
        for _ in range(len(self)):
            batch = []
            for _ in range(self.batch_size):
                if turn == len(turns):
                    turns, turn = self.next_round(rng, turns), 0
                index = turns[turn]
                turn += 1
                if not left[index]:
                    queues[index] = rng.permutation(self._groups[index])
                    left[index] = len(queues[index])
                left[index] -= 1
                batch.append(int(queues[index][left[index]]))
            yield batch


class BalancedBatchSampler(TurnsSampler):
    """Mini-batches in which the classes take turns.

    Draws go round the classes, so that a mini-batch holds about equally many clips of each. Classes
    without clips are passed over, clips without labels form one more class. An epoch has
    ceil(N / batch_size) batches.

    With `max_ratio` above 1 a class has several turns in each round, whose order is drawn anew: as
    many as it has clips for each clip of the rarest class, and at most `max_ratio`. The most
    frequent class is then drawn at most `max_ratio` times as often as the rarest.

    Args:
        targets: labels of the clips.
        batch_size: clips in a mini-batch.
        seed: of the order.
        max_ratio: most turns of a class in a round.

    Raises:
        ValueError: for a number that is too small, and without clips.
    """

    def __init__(self, targets: Labels, batch_size: int, seed: int = 0, max_ratio: int = 1) -> None:
        if max_ratio < 1:
            raise ValueError(f"max_ratio: expected at least 1, got {max_ratio}")
        groups = _groups(targets)
        if not groups.shape[0]:
            raise ValueError("targets: expected at least one clip, got none")
        members = _members(groups)
        super().__init__(members, batch_size, -(-groups.shape[0] // max(1, batch_size)), seed)
        sizes = np.array([len(clips) for clips in members])
        counts = np.clip(np.rint(sizes / sizes.min()), 1, max_ratio).astype(int)
        self._turns = np.repeat(np.arange(len(sizes)), counts)
        self.max_ratio = max_ratio

    def next_round(self, rng: np.random.Generator, last: np.ndarray | None) -> np.ndarray:
        if last is None or self.max_ratio > 1:
            return rng.permutation(self._turns)
        return last


class PartsBatchSampler(TurnsSampler):
    """Mini-batches with a fixed number of clips of each part of a corpus.

    The parts alternate, so that a run of neighbours in a batch is about as mixed as the batch is.
    In an epoch every clip is seen, those of parts that are small for their share several times.

    Args:
        parts: the clips of each part; what an empty one would get goes to the others.
        shares: of each part in a mini-batch; only their proportions count.
        batch_size: clips in a mini-batch, at least as many as there are parts.
        seed: of the order.

    Raises:
        ValueError: without clips, and for a batch too small to have a clip of each part.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray],
        shares: Sequence[float],
        batch_size: int,
        seed: int = 0,
    ) -> None:
        filled = [(np.asarray(part), share) for part, share in zip(parts, shares, strict=True)]
        filled = [(part, share) for part, share in filled if len(part)]
        if not filled:
            raise ValueError("parts: expected at least one clip, got none")
        if batch_size < len(filled):
            raise ValueError(
                f"batch_size: expected at least {len(filled)}, a clip of each part, "
                f"got {batch_size}"
            )
        members = [part for part, _ in filled]
        counts = _divided(batch_size, np.array([share for _, share in filled]))
        batches = max(
            -(-len(part) // count) for part, count in zip(members, counts.tolist(), strict=True)
        )
        super().__init__(members, batch_size, batches, seed)
        self.counts = counts
        place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.argsort(place, kind="stable")
        self._turns = np.repeat(np.arange(len(counts)), counts)[order]

    def next_round(self, rng: np.random.Generator, last: np.ndarray | None) -> np.ndarray:
        return self._turns


def _divided(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers of that sum in proportion to the shares, each at least 1."""
    ends = np.rint(np.cumsum(shares) / shares.sum() * (total - len(shares))).astype(int)
    return np.diff(ends, prepend=0) + 1


def held_out_split(labels: Labels, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split clips into (training, held-out) indices, both ascending, the same for a seed.

    About `fraction` of each class is held out, rare classes first. A class with two clips or more
    has one on both sides unless its clips are all needed by other classes.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: expected a number between 0 and 1, got {fraction}")
    groups = _groups(labels)
    members = _members(groups)
    sizes = np.array([len(clips) for clips in members])
    wanted = np.clip(np.rint(fraction * sizes), 1, sizes - 1)
    held = np.zeros(len(members), dtype=int)
    held_out = np.zeros(groups.shape[0], dtype=bool)
    rng = np.random.default_rng(seed)
    for label in np.argsort(sizes, kind="stable"):
        candidates = rng.permutation(members[label])
        # First the clips that no other class has enough of; then, for a class still without any,
        # those that leave every class one clip to train on.
        for limits, goal in ((wanted, wanted[label]), (sizes - 1, min(1, sizes[label] - 1))):
            if held[label] < goal:
                _hold_out(candidates, groups, limits, goal - held[label], held, held_out)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _hold_out(
    candidates: np.ndarray,
    groups: csr_array,
    limits: np.ndarray,
    count: int,
    held: np.ndarray,
    held_out: np.ndarray,
) -> None:
    """Hold out up to `count` of the candidates, in order, that bring no class above its limit."""
    # What is above a limit now stays so: most of a large class's clips are passed over at once.
    full = held >= limits
    blocked = held_out[candidates] | (groups[candidates] @ full.astype(np.int32) > 0)
    for clip in candidates[~blocked].tolist():
        if count <= 0:
            return
        mine = groups.indices[groups.indptr[clip] : groups.indptr[clip + 1]]
        if (held[mine] < limits[mine]).all():
            held_out[clip] = True
            held[mine] += 1
            count -= 1


def _groups(labels: Labels) -> csr_array:
    """(clips, groups): the classes that have any clip, then those without labels if there are any.

    Every clip is in one group at least.
    """
    matrix = label_matrix(labels)
    used = np.bincount(matrix.indices, minlength=matrix.shape[1]) > 0
    column = np.cumsum(used) - 1
    counts = np.diff(matrix.indptr)
    unlabelled = counts == 0
    indices = column[matrix.indices]
    indices = np.insert(indices, matrix.indptr[:-1][unlabelled], used.sum())
    return matrix_from_counts(
        counts + unlabelled, indices, int(used.sum()) + bool(unlabelled.any())
    )


def _members(groups: csr_array) -> list[np.ndarray]:
    """The clips of each group, ascending."""
    columns = groups.tocsc()
    columns.sort_indices()
    return np.split(columns.indices, columns.indptr[1:-1]) if groups.shape[1] else []
