"""The operators of statistics pooling: weights come from a query or from scores."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from milkernels import reference
from milkernels.ops.library import Family, apply, by_class, kernels, register
from milkernels.ops.results import contiguous_like, empty_like

NAME = "statistics"


def statistics(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    dim: int,
    backend: str,
) -> Tensor:
    """Means and deviations (bags, 2 · channels) under a query or scores; arguments are checked by
    the caller."""
    return apply(NAME, (h, query, scores, mask), (eps, dim, backend))


def _forward(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    dim: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return kernels(backend, NAME).forward(by_class(h, dim), query, by_class(scores, dim), mask, eps)


def _forward_fake(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    dim: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    bags, channels = h.shape[0], h.shape[3 - dim]
    heads = cast(Tensor, scores).shape[3 - dim] if query is None else query.shape[0]
    compute = torch.float64 if h.dtype == torch.float64 else torch.float32
    return (
        h.new_empty((bags, 2 * channels)),
        h.new_empty((2, bags, heads), dtype=compute),
        h.new_empty((3, bags, channels), dtype=compute),
    )


def _backward(
    gradient: Tensor,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    normaliser: Tensor,
    moments: Tensor,
    needs: list[bool],
    eps: float,
    dim: int,
    backend: str,
) -> list[Tensor]:
    gradients = _empty_gradients((h, query, scores), needs)
    h_gradient, query_gradient, scores_gradient = gradients
    kernels(backend, NAME).backward(
        gradient,
        by_class(h, dim),
        query,
        by_class(scores, dim),
        mask,
        normaliser,
        moments,
        eps,
        by_class(h_gradient, dim),
        query_gradient,
        by_class(scores_gradient, dim),
    )
    return [tensor for tensor in gradients if tensor is not None]


def _backward_fake(
    gradient: Tensor,
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    normaliser: Tensor,
    moments: Tensor,
    needs: list[bool],
    *_: object,
) -> list[Tensor]:
    gradients = _empty_gradients((h, query, scores), needs)
    return [tensor for tensor in gradients if tensor is not None]


def _empty_gradients(
    inputs: tuple[Tensor, Tensor | None, Tensor | None], needs: list[bool]
) -> list[Tensor | None]:
    """Of frame tensors as they lie; the query's, which is summed, contiguous."""
    results = (empty_like, contiguous_like, empty_like)
    return [
        like(tensor) if needed and tensor is not None else None
        for tensor, needed, like in zip(inputs, needs, results, strict=False)
    ]


def _reference(
    h: Tensor,
    query: Tensor | None,
    scores: Tensor | None,
    mask: Tensor | None,
    eps: float,
    dim: int,
    _: str,
) -> Tensor:
    if query is not None:
        return reference.attention_stats_pool(h, query, mask, dim, eps)
    return reference.weighted_stats_pool(h, cast(Tensor, scores), mask, dim, eps)


register(
    Family(
        name=NAME,
        tensors="Tensor h, Tensor? query, Tensor? scores, Tensor? mask",
        options="float eps, int dim, str backend",
        saved=2,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
