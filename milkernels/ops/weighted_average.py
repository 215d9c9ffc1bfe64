"""The operators of the weighted averages."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from milkernels import reference
from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES, Average
from milkernels.ops.library import Family, apply, by_class, differentiates, kernels, register
from milkernels.ops.results import empty_like
from milkernels.ops.whole_pass import WholePass, apply_whole, frame_axis

NAME = "weighted_average"

#: Scores, power, alpha and mask: the tensors beside x.
_OTHERS = 4

# Made once for each choice of its four fields: a small call has little time to spare.
_average = cache(Average)


def weighted_average(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> Tensor:
    """Bag values of one member of the family; arguments are checked by the caller."""
    learn = differentiates(power, alpha)
    options = (member, score_activation, dim, from_logits, learn, backend)
    return apply(NAME, (x, scores, power, alpha, mask), options)


def weighted_average_in_one(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
) -> Tensor | None:
    """Bag values by the C++ kernels, or None for a call that goes the general way. Arguments need
    not be checked: what does not fit goes the general way, too."""
    axis = frame_axis(dim, from_logits)
    if axis is None or score_activation not in SCORE_ACTIVATIONS:
        return None
    given = (scores is not None, power is not None, alpha is not None)
    whole = _whole(member, score_activation, axis, from_logits, given)
    return None if whole is None else apply_whole(whole, x, scores, power, alpha, mask)


@cache
def _whole(
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    given: tuple[bool, bool, bool],
) -> WholePass | None:
    """The member's passes, None where it takes other tensors than the scores, power and alpha that
    are given."""
    coefficients = WEIGHTED_AVERAGES[member]
    learned = coefficients.learned
    if given != (coefficients.scores, "power" in learned, "alpha" in learned):
        return None
    number = kernels("cpp", NAME).member_number(member)
    numbers = (number, SCORE_ACTIVATIONS.index(score_activation), dim, from_logits)
    options = (member, score_activation, dim, from_logits, False)
    return WholePass.of(NAME, _OTHERS, numbers, *options)


def _forward(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    average = _average(member, score_activation, from_logits, learn)
    frames = by_class(x, dim), by_class(scores, dim)
    return kernels(backend, NAME).forward(*frames, power, alpha, mask, average)


def _forward_fake(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    bags, classes = x.shape[0], x.shape[3 - dim]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Peak, total and average; Triton's forward pass adds a covariance for each parameter.
    covariances = WEIGHTED_AVERAGES[member].learned if learn and backend == "triton" else ()
    y = x.new_empty((bags, classes))
    return y, x.new_empty((3 + len(covariances), bags, classes), dtype=compute)


def _empty_gradients(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor | None, ...]:
    """What the kernels fill: x's and the scores' gradient, the parameters' all or none."""
    learn = needs[2] or needs[3]
    return (
        empty_like(x),
        None if scores is None else empty_like(scores),
        empty_like(power) if learn and power is not None else None,
        empty_like(alpha) if learn and alpha is not None else None,
    )


def _needed(gradients: tuple[Tensor | None, ...], needs: list[bool]) -> list[Tensor]:
    return [
        gradient
        for gradient, need in zip(gradients, needs[:4], strict=True)
        if need and gradient is not None
    ]


def _backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> list[Tensor]:
    average = _average(member, score_activation, from_logits, learn)
    gradients = _empty_gradients(x, scores, power, alpha, needs)
    kernels(backend, NAME).backward(
        gradient,
        by_class(x, dim),
        by_class(scores, dim),
        power,
        alpha,
        mask,
        statistics,
        average,
        by_class(gradients[0], dim),
        by_class(gradients[1], dim),
        *gradients[2:],
    )
    return _needed(gradients, needs)


def _backward_fake(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    needs: list[bool],
    *_: object,
) -> list[Tensor]:
    return _needed(_empty_gradients(x, scores, power, alpha, needs), needs)


def _reference(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    *_: object,
) -> Tensor:
    function = getattr(reference, f"{member}_pool")
    layout = {"dim": dim, "mask": mask, "from_logits": from_logits}
    if scores is not None:
        return function(x, scores, score_activation, **layout)
    return function(x, *(tensor for tensor in (power, alpha) if tensor is not None), **layout)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor? scores, Tensor? power, Tensor? alpha, Tensor? mask",
        options="str member, str? score_activation, int dim, bool from_logits, bool learn, "
        "str backend",
        saved=1,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
