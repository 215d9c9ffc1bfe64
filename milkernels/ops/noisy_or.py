"""The operators of noisy-or."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.ops.library import Family, apply, by_class, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "noisy_or"


def noisy_or(x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str) -> Tensor:
    """1 - Π (1 - x_i) of each bag; arguments are checked by the caller."""
    return apply(NAME, (x, mask), (dim, from_logits, backend))


def noisy_or_in_one(x: Tensor, mask: Tensor | None, dim: int, from_logits: bool) -> Tensor | None:
    """The same by the C++ kernels, of arguments that need not be checked, or None for a call that
    goes the general way."""
    axis = frame_axis(dim, from_logits)
    return None if axis is None else apply_whole(_whole(axis, from_logits), x, mask)


@cache
def _whole(dim: int, from_logits: bool) -> WholePass:
    options = (dim, from_logits)
    return WholePass.of(NAME, 1, options, *options)


def _forward(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return kernels(backend, NAME).forward(by_class(x, dim), mask, from_logits)


def _forward_fake(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str
) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], x.shape[3 - dim]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(shape), x.new_empty((3, *shape), dtype=compute)


def _backward(
    gradient: Tensor,
    x: Tensor,
    mask: Tensor | None,
    product: Tensor,
    needs: list[bool],
    dim: int,
    from_logits: bool,
    backend: str,
) -> list[Tensor]:
    x_gradient = empty_like(x)
    kernels(backend, NAME).backward(
        gradient, by_class(x, dim), mask, product, from_logits, by_class(x_gradient, dim)
    )
    return [x_gradient]


def _backward_fake(gradient: Tensor, x: Tensor, *_: object) -> list[Tensor]:
    return [empty_like(x)]


def _reference(x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, _: str) -> Tensor:
    return reference.noisy_or_pool(x, dim=dim, mask=mask, from_logits=from_logits)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor? mask",
        options="int dim, bool from_logits, str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
