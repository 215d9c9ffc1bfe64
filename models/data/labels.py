"""The labels of many clips as one sparse matrix: five bytes a label and four a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

Labels: TypeAlias = csr_array | Tensor | Sequence[Sequence[int]]
"""Labels of N clips: a sparse bool matrix or a 0/1 tensor, (N, num_classes), or each clip's class
indices."""


def label_matrix(labels: Labels, num_classes: int | None = None) -> csr_array:
    """Any form of labels as a sparse bool matrix (N, num_classes), sorted, without repetitions.

    Args:
        labels: of N clips.
        num_classes: columns, where `labels` does not say; None for as many as are used.
    """
    if isinstance(labels, csr_array):
        return labels
    if isinstance(labels, Tensor):
        if labels.ndim != 2:
            raise ValueError(f"targets: expected shape (N, num_classes), got {tuple(labels.shape)}")
        return csr_array(labels.cpu().numpy() != 0)
    counts = np.fromiter((len(row) for row in labels), np.int64, len(labels))
    indices = np.fromiter(chain.from_iterable(labels), np.int32, counts.sum())
    if num_classes is None:
        num_classes = int(indices.max()) + 1 if len(indices) else 0
    return matrix_from_counts(counts, indices, num_classes)


def matrix_from_counts(counts: np.ndarray, indices: np.ndarray, num_classes: int) -> csr_array:
    """A label matrix from each clip's number of labels and all the labels in a row."""
    starts = np.zeros(len(counts) + 1, dtype=np.int32 if len(indices) < 2**31 else np.int64)
    np.cumsum(counts, out=starts[1:])
    matrix = csr_array(
        (np.ones(len(indices), dtype=bool), indices.astype(np.int32, copy=False), starts),
        shape=(len(counts), num_classes),
    )
    matrix.sum_duplicates()
    return matrix


def stack(matrices: Iterable[csr_array]) -> csr_array:
    """Label matrices of as many classes, one below the other."""
    parts = list(matrices)
    counts = np.concatenate([np.diff(part.indptr) for part in parts])
    indices = np.concatenate([part.indices for part in parts])
    return matrix_from_counts(counts, indices, parts[0].shape[1])


def labels_of(matrix: csr_array, row: int) -> tuple[int, ...]:
    """The class indices of one clip, ascending."""
    return tuple(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].tolist())


def target_of(labels: Sequence[int], num_classes: int) -> Tensor:
    """The labels of a clip as (num_classes,) float32 of 0 and 1."""
    target = torch.zeros(num_classes)
    target[list(labels)] = 1
    return target
