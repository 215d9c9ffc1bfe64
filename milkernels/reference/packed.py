"""Bags of different lengths: each pooled alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from milkernels.packing import pack
from milkernels.reference import log_mean_exp, maximum, noisy_or, rank, weighted_average

_POOLINGS = {
    "mean": weighted_average.mean_pool,
    "max": maximum.max_pool,
    "max_mean": maximum.max_mean_pool,
    "linear_softmax": weighted_average.linear_softmax_pool,
    "exp_softmax": weighted_average.exp_softmax_pool,
    "auto": weighted_average.auto_pool,
    "power": weighted_average.power_pool,
    "power_exp": weighted_average.power_exp_pool,
    "attention": weighted_average.attention_pool,
    "noisy_or": noisy_or.noisy_or_pool,
    "rank": rank.rank_pool,
    "log_mean_exp": log_mean_exp.log_mean_exp_pool,
}


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
    pool = _POOLINGS[name]
    return pool(*map(of_bag, (x, *parameters)), dim=1, from_logits=from_logits, **keywords)
