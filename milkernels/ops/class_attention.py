"""The operators of attention that is normalised over the classes."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.family import SCORE_ACTIVATIONS
from milkernels.ops.library import Family, apply, by_class, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "class_attention"


def class_attention(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> Tensor:
    """Bag values; arguments are checked by the caller."""
    return apply(NAME, (x, scores, mask), (score_activation, dim, from_logits, backend))


def class_attention_in_one(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
) -> Tensor | None:
    """The same by the C++ kernels, or None for a call that goes the general way."""
    axis = frame_axis(dim, from_logits)
    if axis is None:
        return None
    return apply_whole(_whole(score_activation, axis, from_logits), x, scores, mask)


@cache
def _whole(score_activation: str | None, dim: int, from_logits: bool) -> WholePass:
    numbers = (SCORE_ACTIVATIONS.index(score_activation), dim, from_logits)
    return WholePass.of(NAME, 2, numbers, score_activation, dim, from_logits)


def _forward(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    frames = by_class(x, dim), by_class(scores, dim)
    return kernels(backend, NAME).forward(*frames, mask, score_activation, from_logits)


def _forward_fake(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    bags, classes = x.shape[0], x.shape[3 - dim]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((bags, classes)), x.new_empty((2, bags, classes), dtype=compute)


def _empty_gradients(x: Tensor, scores: Tensor, needs: list[bool]) -> list[Tensor | None]:
    return [
        empty_like(tensor) if need else None
        for tensor, need in zip((x, scores), needs[:2], strict=True)
    ]


def _backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> list[Tensor]:
    gradients = _empty_gradients(x, scores, needs)
    kernels(backend, NAME).backward(
        gradient,
        by_class(x, dim),
        by_class(scores, dim),
        mask,
        statistics,
        score_activation,
        from_logits,
        *(by_class(filled, dim) for filled in gradients),
    )
    return [filled for filled in gradients if filled is not None]


def _backward_fake(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    *_: object,
) -> list[Tensor]:
    return [filled for filled in _empty_gradients(x, scores, needs) if filled is not None]


def _reference(
    x: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    _: str,
) -> Tensor:
    return reference.attention_pool(
        x, scores, score_activation, "classes", dim=dim, mask=mask, from_logits=from_logits
    )


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor scores, Tensor? mask",
        options="str? score_activation, int dim, bool from_logits, str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
