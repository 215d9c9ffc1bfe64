"""Which clips go together: class-balanced mini-batches and a stratified held-out part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Labels = Tensor | Sequence[Sequence[int]]
"""Labels of N clips: a 0/1 tensor (N, num_classes), or each clip's class indices."""


class BalancedBatchSampler(Sampler[list[int]]):
    """Mini-batches in which the classes take turns.

    Each class has a shuffled queue of its clips that refills when empty; draws go round the
    classes, so that a mini-batch holds about equally many clips of each. Classes without clips
    are passed over, clips without labels form one more class. An epoch has
    ceil(N / batch_size) batches of batch_size clips and depends on (seed, epoch) alone.
    """

    def __init__(self, targets: Labels, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected at least 0, got {seed}")
        self._members = _members(targets)
        self._num_clips = len(targets)
        if not self._num_clips:
            raise ValueError("targets: expected at least one clip, got none")
        self.batch_size = batch_size
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
        order = rng.permutation(len(self._members))
        queues: list[list[int]] = [[] for _ in order]
        draw = 0
        for _ in range(len(self)):
            batch = []
            for _ in range(self.batch_size):
                index = order[draw % len(order)]
                draw += 1
                if not queues[index]:
                    queues[index] = rng.permutation(self._members[index]).tolist()
                batch.append(queues[index].pop())
            yield batch


def held_out_split(labels: Labels, fraction: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Split clips into (training, held-out) indices, both ascending, the same for a seed.

    About `fraction` of each class is held out, rare classes first. A class with two clips or more
    has one on both sides unless its clips are all needed by other classes.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: expected a number between 0 and 1, got {fraction}")
    members = _members(labels)
    classes_of: list[list[int]] = [[] for _ in range(len(labels))]
    for label, clips in enumerate(members):
        for clip in clips:
            classes_of[clip].append(label)
    sizes = np.array([len(clips) for clips in members])
    wanted = np.clip(np.rint(fraction * sizes), 1, sizes - 1)
    held = np.zeros(len(members), dtype=int)
    held_out: set[int] = set()
    rng = np.random.default_rng(seed)
    for label in np.argsort(sizes, kind="stable"):
        candidates = rng.permutation(members[label]).tolist()
        # First the clips that no other class has enough of; then, for a class still without any,
        # those that leave every class one clip to train on.
        for limits, goal in ((wanted, wanted[label]), (sizes - 1, min(1, sizes[label] - 1))):
            for clip in candidates:
                if held[label] >= goal:
                    break
                mine = classes_of[clip]
                if clip not in held_out and (held[mine] < limits[mine]).all():
                    held_out.add(clip)
                    held[mine] += 1
    training = [clip for clip in range(len(labels)) if clip not in held_out]
    return training, sorted(held_out)


def _members(labels: Labels) -> list[np.ndarray]:
    """The clips of each class that has any, then those without labels if there are any."""
    if isinstance(labels, Tensor):
        if labels.ndim != 2:
            raise ValueError(f"targets: expected shape (N, num_classes), got {tuple(labels.shape)}")
        clips, classes = (part.cpu().numpy() for part in torch.nonzero(labels, as_tuple=True))
    else:
        sizes = np.fromiter((len(row) for row in labels), np.int64, len(labels))
        classes = np.fromiter(chain.from_iterable(labels), np.int64, sizes.sum())
        clips = np.repeat(np.arange(len(labels)), sizes)
    # Ordered by class, then clip; a label given twice counts once.
    keys = np.unique(classes * max(1, len(labels)) + clips)
    classes, clips = np.divmod(keys, max(1, len(labels)))
    groups = np.split(clips, np.flatnonzero(np.diff(classes)) + 1) if len(clips) else []
    unlabelled = np.setdiff1d(np.arange(len(labels)), clips)
    return [*groups, unlabelled] if len(unlabelled) else groups
