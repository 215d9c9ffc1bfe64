"""The rule by which `torch.func.vmap` runs an operator: once for each entry of the mapped axis.

The operators take bags in batches already, so there is nothing to gain by folding one more axis in;
what counts is that models which map over them run, and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for `torch.library.register_vmap` that calls `operator` for each entry in turn."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        def entry(index: int) -> list[Any]:
            return [
                argument.select(dim, index)
                if isinstance(argument, Tensor) and dim is not None
                else argument
                for argument, dim in zip(arguments, in_dims, strict=True)
            ]

        results = [operator(*entry(index)) for index in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = type(results[0])(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, type(results[0])(0 for _ in stacked)

    return rule
