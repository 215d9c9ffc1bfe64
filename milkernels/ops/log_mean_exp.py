"""The operators of log-mean-exp."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.ops.library import Family, apply, by_class, differentiates, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "log_mean_exp"


def log_mean_exp(
    x: Tensor, sharpness: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str
) -> Tensor:
    """log(Σ exp(r x_i) / n) / r of each bag; arguments are checked by the caller."""
    options = (dim, from_logits, differentiates(sharpness), backend)
    return apply(NAME, (x, sharpness, mask), options)


def log_mean_exp_in_one(
    x: Tensor, sharpness: Tensor, mask: Tensor | None, dim: int, from_logits: bool
) -> Tensor | None:
    """The same by the C++ kernels, or None for a call that goes the general way."""
    axis = frame_axis(dim, from_logits)
    if axis is None:
        return None
    return apply_whole(_whole(axis, from_logits, differentiates(sharpness)), x, sharpness, mask)


@cache
def _whole(dim: int, from_logits: bool, learn: bool) -> WholePass:
    options = (dim, from_logits, learn)
    return WholePass.of(NAME, 2, options, *options)


def _forward(
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return kernels(backend, NAME).forward(by_class(x, dim), sharpness, mask, from_logits, learn)


def _forward_fake(
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], x.shape[3 - dim]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(shape), x.new_empty((2 + learn, *shape), dtype=compute)


def _backward(
    gradient: Tensor,
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> list[Tensor]:
    x_gradient, sharpness_gradient = _empty_gradients(x, sharpness, needs)
    kernels(backend, NAME).backward(
        gradient,
        by_class(x, dim),
        sharpness,
        mask,
        statistics,
        from_logits,
        by_class(x_gradient, dim),
        sharpness_gradient,
    )
    return _needed(x_gradient, sharpness_gradient, needs)


def _backward_fake(
    gradient: Tensor,
    x: Tensor,
    sharpness: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    *_: object,
) -> list[Tensor]:
    return _needed(*_empty_gradients(x, sharpness, needs), needs)


def _empty_gradients(
    x: Tensor, sharpness: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor | None]:
    return empty_like(x), empty_like(sharpness) if needs[1] else None


def _needed(
    x_gradient: Tensor, sharpness_gradient: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    given = (x_gradient if needs[0] else None, sharpness_gradient)
    return [gradient for gradient in given if gradient is not None]


def _reference(
    x: Tensor, sharpness: Tensor, mask: Tensor | None, dim: int, from_logits: bool, *_: object
) -> Tensor:
    return reference.log_mean_exp_pool(x, sharpness, dim=dim, mask=mask, from_logits=from_logits)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor sharpness, Tensor? mask",
        options="int dim, bool from_logits, bool learn, str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
