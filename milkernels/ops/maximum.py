"""The operators of the maximum over frames, alone or with the mean added."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.ops.library import Family, apply, by_class, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "maximum"


def maximum(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, plus_mean: bool, backend: str
) -> Tensor:
    """Largest frame of each bag, plus the mean if asked; arguments are checked by the caller."""
    return apply(NAME, (x, mask), (dim, from_logits, plus_mean, backend))


def maximum_in_one(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, plus_mean: bool
) -> Tensor | None:
    """The same by the C++ kernels, of arguments that need not be checked, or None for a call that
    goes the general way."""
    axis = frame_axis(dim, from_logits)
    return None if axis is None else apply_whole(_whole(axis, from_logits, plus_mean), x, mask)


@cache
def _whole(dim: int, from_logits: bool, plus_mean: bool) -> WholePass:
    options = (dim, from_logits, plus_mean)
    return WholePass.of(NAME, 1, options, *options)


def _forward(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, plus_mean: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, NAME).forward(by_class(x, dim), mask, from_logits, plus_mean)


def _forward_fake(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, plus_mean: bool, backend: str
) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], x.shape[3 - dim]
    return x.new_empty(shape), x.new_empty((1 + plus_mean, *shape), dtype=torch.int64)


def _backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    places: Tensor,
    needs: list[bool],
    dim: int,
    from_logits: bool,
    plus_mean: bool,
    backend: str,
) -> list[Tensor]:
    x_gradient = empty_like(x)
    kernels(backend, NAME).backward(
        gradient,
        by_class(x, dim),
        mask,
        places,
        from_logits,
        plus_mean,
        by_class(x_gradient, dim),
    )
    return [x_gradient]


def _backward_fake(gradient: Tensor, x: Tensor, *_: object) -> list[Tensor]:
    return [empty_like(x)]


def _reference(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, plus_mean: bool, _: str
) -> Tensor:
    function = reference.max_mean_pool if plus_mean else reference.max_pool
    return function(x, dim=dim, mask=mask, from_logits=from_logits)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor? mask",
        options="int dim, bool from_logits, bool plus_mean, str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
