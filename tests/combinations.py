"""Fewer parameter sets than all, where two properties at a time are what may disagree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product


def every_pair(*axes: Sequence[object]) -> list[tuple[object, ...]]:
    """Combinations of one value of each axis in which any two values of two axes meet once at
    least. The choice is always the same."""
    possible = list(product(*axes))
    missing = {pair for row in possible for pair in _pairs(row)}
    chosen = []
    while missing:
        best = max(possible, key=lambda row: len(missing & _pairs(row)))
        missing -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(row: tuple[object, ...]) -> set[tuple[tuple[int, object], ...]]:
    return set(combinations(enumerate(row), 2))
