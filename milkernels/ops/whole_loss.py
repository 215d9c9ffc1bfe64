"""Pooling and cross-entropy on a CPU in one call of the extension, as `ops.whole_pass` has it for
the poolings: for tensors that the kernels read as they are, unweighted labels, and one number."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES
from milkernels.kernels.cpp import extension
from milkernels.ops.library import differentiates, kernels
from milkernels.ops.pool_bce import DIFFERENTIABLE, computed_again, loss_gradients
from milkernels.ops.whole_pass import frame_axis

#: Of frames whose loss has their dtype.
_DTYPES = (torch.float32, torch.float64)


def pool_bce_in_one(
    name: str,
    x: Tensor,
    scores: Tensor | None,
    alpha: Tensor | None,
    power: Tensor | None,
    target: Tensor,
    label_mask: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    reduction: str,
    dim: int,
    from_logits: bool,
) -> Tensor | None:
    """The loss, or None for a call that goes the general way. Arguments need not be checked: what
    does not fit goes the general way, too."""
    axis = frame_axis(dim, from_logits)
    if axis is None or reduction not in ("mean", "sum"):
        return None
    inputs = (x, scores, alpha, power)
    there = (x, target, *(one for one in inputs[1:] if one is not None))
    if score_activation not in SCORE_ACTIVATIONS or not all(isinstance(i, Tensor) for i in there):
        return None
    given = (scores is not None, alpha is not None, power is not None)
    whole = _whole(name, score_activation, axis, from_logits, given)
    if whole is None:
        return None
    run, numbers = whole
    if target.dtype is not x.dtype and x.dtype in _DTYPES and not target.is_complex():
        target = target.to(x.dtype)
    wanted = differentiates(*inputs)
    labels, threads = (target, label_mask, mask), torch.get_num_threads()
    result = run(*numbers, threads, reduction == "mean", wanted, *inputs, *labels)
    if result is None or not wanted:
        return None if result is None else result[0]
    options = (name, 1.0, score_activation, reduction, axis, from_logits, True, "cpp")
    loss, *gradients = result
    return _record(*inputs, None, target, None, label_mask, mask, (loss, gradients), options)


@cache
def _whole(
    name: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    given: tuple[bool, bool, bool],
) -> tuple[Callable[..., Any], tuple[int, ...]] | None:
    """The pooling's function in the extension, and what a call tells it in numbers. None where it
    has none, or takes other tensors than the scores, alpha and power that are given."""
    functions = extension.functions
    if name in ("max", "noisy_or"):
        return None if any(given) else (getattr(functions, f"{name}_loss"), (dim, from_logits))
    if name not in WEIGHTED_AVERAGES:
        return None
    coefficients = WEIGHTED_AVERAGES[name]
    learned = coefficients.learned
    if given != (coefficients.scores, "alpha" in learned, "power" in learned):
        return None
    number = kernels("cpp", "weighted_average").member_number(name)
    numbers = (number, SCORE_ACTIVATIONS.index(score_activation), dim, from_logits)
    return functions.weighted_average_loss, numbers


class _WholeLoss(torch.autograd.Function):
    """A loss whose gradients are there, for a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        # In a tuple the loss is no input, which autograd would take for a view of itself.
        *tensors, (loss, ctx.gradients), ctx.options = given
        ctx.save_for_backward(*tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:DIFFERENTIABLE]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or torch.is_grad_enabled():
            needs = (*needs, False, False, False, False)
            saved = computed_again(ctx.saved_tensors, ctx.options)
            found = loss_gradients(gradient, saved, ctx.options, needs, in_place=False)
            return *found, None, None
        by = gradient.item()
        if by != 1:
            for one in gradients:
                if one is not None:
                    one.mul_(by)
        handed = (one if need else None for one, need in zip(gradients, needs, strict=True))
        return *handed, None, None, None, None, None, None


# As in ops.whole_pass.
_record = super(torch.autograd.Function, _WholeLoss).apply
