"""Bags of different lengths: each pooled alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from milkernels import reference
from milkernels.packing import is_shape_alone, pack


def pool_packed(
    name: str,
    x: Tensor,
    offsets: Tensor | None = None,
    *parameters: Any,
    from_logits: bool = False,
    **options: Any,
) -> Tensor:
    """Bag values (bags, classes), y_b the pooling of x[offsets[b]:offsets[b + 1]] alone; see
    `functional.pool_packed`."""
    if x.is_nested:
        x, offsets = pack("x", x)
    offsets = cast(Tensor, offsets)
    if is_shape_alone(offsets):
        # Where bags begin changes no shape: one of all instances stands for each.
        whole = _pool_bag(name, x, 0, x.shape[0], parameters, from_logits, options)
        return whole.repeat(offsets.shape[0] - 1, 1)
    bags = list(pairwise(offsets.tolist()))
    values = [
        _pool_bag(name, x, first, last, parameters, from_logits, options)
        # Without bags, one of no instances ties the empty result to its inputs.
        for first, last in bags or [(0, 0)]
    ]
    return torch.cat(values)[: len(bags)]


def _pool_bag(
    name: str,
    x: Tensor,
    first: int,
    last: int,
    parameters: tuple[Any, ...],
    from_logits: bool,
    options: dict[str, Any],
) -> Tensor:
    """Bag value (1, classes) of some instances."""

    def of_bag(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 1:
            return value
        values = pack("scores", value)[0] if value.is_nested else value
        return values[None, first:last]

    keywords = {key: of_bag(value) for key, value in options.items()}
    pool = getattr(reference, f"{name}_pool")
    return pool(*map(of_bag, (x, *parameters)), dim=1, from_logits=from_logits, **keywords)
