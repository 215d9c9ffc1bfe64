"""Which clips go together: class-balanced mini-batches and a stratified held-out part."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array
from torch.utils.data import Sampler

from models.data.labels import Labels, label_matrix, matrix_from_counts

BALANCING = {"round_robin": 1, "ratio": 5}
"""`max_ratio` by the name of the rule: Wang et al., 2019, and Xu et al., 2018."""


class BalancedBatchSampler(Sampler[list[int]]):
    """Mini-batches in which the classes take turns.

    Each class has a shuffled queue of its clips that refills when empty; draws go round the
    classes, so that a mini-batch holds about equally many clips of each. Classes without clips
    are passed over, clips without labels form one more class. An epoch has
    ceil(N / batch_size) batches of batch_size clips and depends on (seed, epoch) alone.

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
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected at least 0, got {seed}")
        if max_ratio < 1:
            raise ValueError(f"max_ratio: expected at least 1, got {max_ratio}")
        groups = _groups(targets)
        self._num_clips = groups.shape[0]
        self._members = _members(groups)
        if not self._num_clips:
            raise ValueError("targets: expected at least one clip, got none")
        sizes = np.array([len(clips) for clips in self._members])
        turns = np.clip(np.rint(sizes / sizes.min()), 1, max_ratio).astype(int)
        self._turns = np.repeat(np.arange(len(sizes)), turns)
        self.batch_size = batch_size
        self.max_ratio = max_ratio
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> BalancedBatchSampler:
        """Itself: training loops call `set_epoch` on the sampler inside a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._num_clips / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self._turns)
        queues: list[np.ndarray] = [np.empty(0, dtype=np.int32) for _ in self._members]
        left = [0] * len(queues)
        draw = 0
        for _ in range(len(self)):
            batch = []
            for _ in range(self.batch_size):
                if draw == len(order):
                    draw = 0
                    if self.max_ratio > 1:
                        order = rng.permutation(self._turns)
                index = order[draw]
                draw += 1
                if not left[index]:
                    queues[index] = rng.permutation(self._members[index])
                    left[index] = len(queues[index])
                left[index] -= 1
                batch.append(int(queues[index][left[index]]))
            yield batch


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
