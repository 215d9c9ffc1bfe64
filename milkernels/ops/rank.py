"""The operators of global weighted rank pooling."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.family import SHORT_BAG
from milkernels.ops.library import Family, apply, by_class, differentiates, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "rank"


def rank(
    x: Tensor, mask: Tensor | None, decay: float, dim: int, from_logits: bool, backend: str
) -> Tensor:
    """Bag values; arguments are checked by the caller."""
    options = (float(decay), dim, from_logits, differentiates(x), backend)
    return apply(NAME, (x, mask), options)


def rank_in_one(
    x: Tensor, mask: Tensor | None, decay: float, dim: int, from_logits: bool
) -> Tensor | None:
    """The same by the C++ kernels, or None for a call that goes the general way."""
    axis = frame_axis(dim, from_logits)
    if axis is None:
        return None
    return apply_whole(_whole(float(decay), axis, from_logits, differentiates(x)), x, mask)


# A decay is any number, and a program may try many.
@lru_cache
def _whole(decay: float, dim: int, from_logits: bool, keep_ranks: bool) -> WholePass:
    options = (decay, dim, from_logits, keep_ranks)
    return WholePass.of(NAME, 1, options, *options)


def _empty_ranks(x: Tensor, dim: int, keep_ranks: bool) -> Tensor:
    """Ranks like x in shape and layout, or none."""
    dtype = torch.int16 if x.shape[dim] <= SHORT_BAG else torch.int32
    return empty_like(x, dtype=dtype) if keep_ranks else x.new_empty(0, dtype=dtype)


def _forward(
    x: Tensor,
    mask: Tensor | None,
    decay: float,
    dim: int,
    from_logits: bool,
    keep_ranks: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    ranks = _empty_ranks(x, dim, keep_ranks)
    filled = by_class(ranks, dim) if keep_ranks else None
    y, total = kernels(backend, NAME).forward(by_class(x, dim), mask, decay, from_logits, filled)
    return y, ranks, total


def _forward_fake(
    x: Tensor,
    mask: Tensor | None,
    decay: float,
    dim: int,
    from_logits: bool,
    keep_ranks: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = x.shape[0], x.shape[3 - dim]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    ranks = _empty_ranks(x, dim, keep_ranks)
    return x.new_empty(shape), ranks, x.new_empty(shape, dtype=compute)


def _backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    ranks: Tensor,
    total: Tensor,
    needs: list[bool],
    decay: float,
    dim: int,
    from_logits: bool,
    keep_ranks: bool,
    backend: str,
) -> list[Tensor]:
    x_gradient = empty_like(x)
    frames = (by_class(tensor, dim) for tensor in (x, ranks))
    kernels(backend, NAME).backward(
        gradient, *frames, total, decay, from_logits, by_class(x_gradient, dim)
    )
    return [x_gradient]


def _backward_fake(gradient: Tensor, x: Tensor, *_: object) -> list[Tensor]:
    return [empty_like(x)]


def _reference(
    x: Tensor, mask: Tensor | None, decay: float, dim: int, from_logits: bool, *_: object
) -> Tensor:
    return reference.rank_pool(x, decay, dim=dim, mask=mask, from_logits=from_logits)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor? mask",
        options="float decay, int dim, bool from_logits, bool keep_ranks, str backend",
        saved=2,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
