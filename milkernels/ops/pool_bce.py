"""The operator that pools, computes the cross-entropy and, at once, its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from milkernels import reference
from milkernels.family import PooledLoss
from milkernels.ops.library import (
    apart,
    by_class,
    define,
    differentiable_gradients,
    differentiates,
    kernels,
    refuse_tangents,
    transforms_are_active,
)
from milkernels.ops.results import empty_like
from milkernels.reference.pool_bce import known_share

NAME = "pool_bce"

#: Of the operator's tensors, those that gradients go to: x, scores, alpha, power, sharpness.
DIFFERENTIABLE = 5


def pool_bce(
    name: str,
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    sharpness: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    label_mask: Tensor | None,
    mask: Tensor | None,
    decay: float,
    score_activation: str | None,
    reduction: str,
    dim: int,
    from_logits: bool,
    backend: str,
) -> Tensor:
    """The loss; arguments are checked by the caller. `name` is the reference's, or
    "class_attention"."""
    inputs = (x, scores, alpha, power, sharpness)
    refuse_tangents(inputs)
    labels = (target.detach(), None if weight is None else weight.detach(), label_mask, mask)
    options = (name, decay, score_activation, reduction, dim, from_logits)
    if differentiates(*inputs):
        if _mixes_cells(options):
            # Its gradients wait for the loss's.
            return _PoolBCE.apply((*options, False, backend), *apart(inputs), *labels)[0]
        return _PoolBCE.apply((*options, True, backend), *apart(inputs), *labels)[0]
    return torch.ops.milkernels.pool_bce(*inputs, *labels, *options, False, backend)[0]


class _PoolBCE(torch.autograd.Function):
    """The forward pass leaves the gradients for a gradient of 1; the backward pass scales them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(options: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return torch.ops.milkernels.pool_bce(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, *tensors = inputs
        ctx.inputs = len(tensors)
        _, *gradients = output
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *gradients)
        ctx.handed_out = False

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        needs = (*ctx.needs_input_grad[1 : 1 + DIFFERENTIABLE], False, False, False, False)
        if gradient is None:
            return None, *(None for _ in needs)
        tensors, options = ctx.saved_tensors, ctx.options
        if ctx.handed_out:
            # The first ones were scaled in place.
            tensors = computed_again(tensors[: ctx.inputs], options)
        in_place = not (
            torch.is_grad_enabled()
            or _mixes_cells(options)
            or torch.compiler.is_compiling()
            or transforms_are_active()
        )
        ctx.handed_out = ctx.handed_out or in_place
        return None, *loss_gradients(gradient, tensors, options, needs, in_place)


def computed_again(
    tensors: Sequence[Tensor | None], options: tuple[Any, ...]
) -> tuple[Tensor | None, ...]:
    """All inputs, and the gradients for a gradient of 1 anew."""
    with torch.no_grad():
        _, *gradients = torch.ops.milkernels.pool_bce(*tensors, *options)
    return *tensors, *gradients


def loss_gradients(
    gradient: Tensor,
    saved: Sequence[Tensor | None],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    in_place: bool,
) -> list[Tensor | None]:
    """Gradients of all inputs for this gradient of the loss, None for those without need. `saved`
    are the inputs, then the gradients for a gradient of 1, which `in_place` uses up."""
    given: Sequence[Tensor]
    if torch.is_grad_enabled():
        given = differentiable_gradients(
            lambda *tensors: _gradients(*tensors, options=options, needs=needs, in_place=False),
            lambda *inputs: _reference(*inputs, *options),
            needs,
            gradient,
            saved,
        )
    else:
        given = _gradients(gradient, *saved, options=options, needs=needs, in_place=in_place)
    remaining = iter(given)
    return [next(remaining) if need else None for need in needs]


def _gradients(
    gradient: Tensor,
    *saved: Tensor | None,
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    in_place: bool,
) -> list[Tensor]:
    """Gradients of the inputs in need, for this gradient of the loss. `saved` are all inputs, then
    the gradients for a gradient of 1."""
    tensors, gradients = saved[: len(needs)], saved[len(needs) :]
    if _mixes_cells(options):
        given = _weighted_anew(tensors, options, gradient)
    else:
        given = _scaled(tensors, gradients, options, needs, gradient, in_place)
    pairs = zip(given, needs, strict=False)
    return [cast(Tensor, one) for one, need in pairs if need]


def _scaled(
    tensors: tuple[Tensor | None, ...],
    gradients: tuple[Tensor | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    gradient: Tensor,
    in_place: bool,
) -> list[Tensor | None]:
    """The gradients of the five differentiable inputs, for this gradient of the loss."""
    x, scores, *parameters = tensors[:DIFFERENTIABLE]
    target, _, label_mask, _ = tensors[DIFFERENTIABLE:]
    _, _, _, reduction, dim, *_, backend = options
    x_gradient, scores_gradient, shares = cast(tuple[Tensor, ...], gradients)
    by = gradient
    if _defers_the_mean(cast(Tensor, x), reduction):
        by = by * _scale(cast(Tensor, target), label_mask, reduction)
    of_frames = by.unsqueeze(dim) if reduction == "none" else by
    results: list[Tensor | None] = []
    for tensor, filled, need in ((x, x_gradient, needs[0]), (scores, scores_gradient, needs[1])):
        if tensor is None or not need:
            results.append(None)
        elif in_place:
            torch.ops.milkernels.scale_(filled, of_frames, backend)
            results.append(filled)
        else:
            results.append((filled * of_frames).to(tensor.dtype))
    rows = iter(_sum_of_bags(shares, by))
    for parameter in parameters:
        results.append(None if parameter is None else next(rows).to(parameter.dtype))
    return results


def _sum_of_bags(shares: Tensor, by: Tensor) -> Tensor:
    """The parameters' gradients (parameters, classes); for one loss as the C++ kernels sum them."""
    if by.dim() > 0:
        return (shares * by).sum(1)
    return shares.sum(1, dtype=torch.float64).to(shares.dtype) * by


def _mixes_cells(options: tuple[Any, ...]) -> bool:
    """Whether a frame's gradient is that of several losses, which the caller keeps apart."""
    name, _, _, reduction, *_ = options
    return name == "class_attention" and reduction == "none"


def _weighted_anew(
    tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], gradient: Tensor
) -> list[Tensor | None]:
    """Gradients of the sum of the losses, each weighted by its own gradient."""
    *inputs, target, weight, label_mask, mask = tensors
    name, decay, score_activation, _, dim, from_logits, _, backend = options
    weight = gradient if weight is None else weight * gradient
    options = (name, decay, score_activation, "sum", dim, from_logits, True, backend)
    labels = (target, weight, label_mask, mask)
    _, *gradients = torch.ops.milkernels.pool_bce(*inputs, *labels, *options)
    return [gradients[0], gradients[1], None, None, None]


def _defers_the_mean(x: Tensor, reduction: str) -> bool:
    """Whether the division by the number of labels waits for the backward pass: before the loss's
    own scale is there, it would take gradients below float16's range."""
    return reduction == "mean" and x.dtype == torch.float16


def _scale(target: Tensor, label_mask: Tensor | None, reduction: str) -> Tensor:
    """What the sum of the losses is multiplied by, in float32 at least."""
    if reduction != "mean":
        return target.new_ones((), dtype=torch.float64)
    cells = target.new_empty(target.shape, dtype=torch.float64)
    return known_share(cells, label_mask)


def _reference(
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    sharpness: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    label_mask: Tensor | None,
    mask: Tensor | None,
    name: str,
    decay: float,
    score_activation: str | None,
    reduction: str,
    dim: int,
    from_logits: bool,
    *_: object,
) -> Tensor:
    params: list[Any] = [tensor for tensor in (power, alpha, sharpness) if tensor is not None]
    if scores is not None:
        normalize = "classes" if name == "class_attention" else "frames"
        params = [scores, score_activation, normalize]
    if name == "rank":
        params = [decay]
    return reference.pool_bce(
        "attention" if name == "class_attention" else name,
        x,
        target,
        *params,
        from_logits=from_logits,
        weight=weight,
        label_mask=label_mask,
        reduction=reduction,
        dim=dim,
        mask=mask,
    )


def _forward(
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    sharpness: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    label_mask: Tensor | None,
    mask: Tensor | None,
    name: str,
    decay: float,
    score_activation: str | None,
    reduction: str,
    dim: int,
    from_logits: bool,
    gradients: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    cells, *filled = _empty_outputs(x, scores, alpha, power, sharpness, dim, gradients)
    if weight is not None:
        weight = weight.expand(cells.shape).to(cells.dtype).contiguous()
    scale = _scale(target, label_mask, reduction).to(cells.dtype)
    given = scale.new_ones(()) if _defers_the_mean(x, reduction) else scale
    labels = (target.to(cells.dtype).contiguous(), weight, label_mask, given)
    pooling = PooledLoss(name, decay, score_activation, from_logits)
    x_gradient, scores_gradient, shares = filled if gradients else (None, None, None)
    kernels(backend, NAME).forward(
        by_class(x, dim),
        by_class(scores, dim),
        (alpha, power, sharpness),
        mask,
        tuple(None if label is None else label.contiguous() for label in labels),
        pooling,
        cells,
        by_class(x_gradient, dim),
        None if scores is None else by_class(scores_gradient, dim),
        shares,
    )
    if reduction == "none":
        return cells, *filled
    # On CPUs PyTorch's own sum depends on the number of threads.
    total = kernels("cpp", NAME).total(cells) if backend == "cpp" else cells.sum()
    return total * scale, *filled


def _empty_outputs(
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    sharpness: Tensor | None,
    dim: int,
    gradients: bool,
) -> tuple[Tensor, ...]:
    """Losses (bags, classes), then gradients: x's, the scores', and each bag's and class's share of
    each learned parameter's (parameters, bags, classes). Those that are not wanted hold nothing."""
    shape = (x.shape[0], x.shape[3 - dim])
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    learned = sum(parameter is not None for parameter in (alpha, power, sharpness))
    nothing = x.new_empty(0)
    return (
        x.new_empty(shape, dtype=compute),
        empty_like(x) if gradients else nothing,
        empty_like(scores) if gradients and scores is not None else nothing.clone(),
        x.new_empty((learned if gradients else 0, *shape), dtype=compute),
    )


def _forward_fake(
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    sharpness: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    label_mask: Tensor | None,
    mask: Tensor | None,
    name: str,
    decay: float,
    score_activation: str | None,
    reduction: str,
    dim: int,
    from_logits: bool,
    gradients: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    cells, *filled = _empty_outputs(x, scores, alpha, power, sharpness, dim, gradients)
    return cells if reduction == "none" else cells.new_empty(()), *filled


def _scale_in_place(filled: Tensor, by: Tensor, backend: str) -> None:
    # Nobody has read the gradients yet: that they are saved must not forbid this.
    filled = filled.data
    if by.dim() == 0:
        kernels(backend, NAME).backward(filled, by)
    else:
        filled.mul_(by)


def _scale_in_place_fake(filled: Tensor, by: Tensor, backend: str) -> None:
    return None


define(
    NAME,
    "(Tensor x, Tensor? scores, Tensor? alpha, Tensor? power, Tensor? sharpness, Tensor target, "
    "Tensor? weight, Tensor? label_mask, Tensor? mask, str name, float decay, "
    "str? score_activation, str reduction, int dim, bool from_logits, bool gradients, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
define(
    "scale_",
    "(Tensor(a!) filled, Tensor by, str backend) -> ()",
    _scale_in_place,
    _scale_in_place_fake,
)
