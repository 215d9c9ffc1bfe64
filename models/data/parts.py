"""The strongly labelled, weakly labelled and unlabelled clips of a corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.data.corpus import Corpus
from models.data.sampling import held_out_split

SHARES = (1, 1, 2)
"""Of strongly labelled, weakly labelled and unlabelled clips in a mini-batch: the baseline system's
of DCASE 2019 task 4."""


@dataclass(frozen=True)
class Parts:
    """Indices of training clips, ascending; held-out clips are weakly labelled and in no part.

    A clip that the corpus's `train_strong` names is strongly labelled, another with any class
    weakly, and one without is unlabelled.
    """

    strong: np.ndarray
    weak: np.ndarray
    unlabelled: np.ndarray
    held_out: np.ndarray

    @property
    def training(self) -> np.ndarray:
        """The clips of all parts, ascending."""
        return np.sort(np.concatenate([self.strong, self.weak, self.unlabelled]))

    def places(self) -> list[np.ndarray]:
        """Where the clips of each part are in `training`."""
        parts = (self.strong, self.weak, self.unlabelled)
        return [np.searchsorted(self.training, part) for part in parts]


def split_parts(corpus: Corpus, fraction: float, seed: int = 0) -> Parts:
    """Divide a corpus's training clips, about `fraction` of the weakly labelled held out.

    The split of those is stratified, as in `held_out_split`.
    """
    labels = corpus.train.labels
    names = corpus.train_strong
    strong = np.zeros(labels.shape[0], dtype=bool)
    if names:
        strong[:] = [corpus.train[index].clip_id in names for index in range(len(strong))]
    labelled = np.diff(labels.indptr) > 0
    weak = np.flatnonzero(labelled & ~strong)
    kept, held_out = held_out_split(labels[weak], fraction, seed)
    return Parts(
        np.flatnonzero(strong), weak[kept], np.flatnonzero(~labelled & ~strong), weak[held_out]
    )
