"""Pooling and binary cross-entropy in Triton: what their kernels are launched with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from milkernels.family import SHORT_BAG, Average, PooledLoss
from milkernels.kernels import (
    class_attention,
    cross_entropy,
    lanes,
    log_mean_exp,
    maximum,
    noisy_or,
    pool_bce_kernels,
    rank,
    tiles,
    weighted_average,
    weighted_average_bce,
)
from milkernels.kernels.formula import Formula
from milkernels.kernels.launch import Launch, of_classes, or_else, strides_of

_CELLS = 128
_SCALED_ELEMENTS = 2048

#: Of a multiprocessor, and of a thread at most.
_REGISTERS = 65536
_THREAD_REGISTERS = 255

#: Targets, weights, which labels are known, and the scale of the gradients.
Labels = tuple[Tensor, Tensor | None, Tensor | None, Tensor]

#: Alpha, power and sharpness.
Parameters = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Call:
    """What is pooled, (bags, classes, frames) views, and the gradients that are wanted."""

    x: Tensor
    scores: Tensor | None
    parameters: Parameters
    mask: Tensor | None
    pooling: PooledLoss
    x_gradient: Tensor | None
    scores_gradient: Tensor | None
    shares: Tensor | None

    @property
    def to_x(self) -> Tensor:
        """x's gradient, of a call that wants it."""
        return cast(Tensor, self.x_gradient)


def forward(
    x: Tensor,
    scores: Tensor | None,
    parameters: Parameters,
    mask: Tensor | None,
    labels: Labels,
    pooling: PooledLoss,
    cells: Tensor,
    x_gradient: Tensor | None,
    scores_gradient: Tensor | None,
    shares: Tensor | None,
) -> tuple[list[Launch], None]:
    """Launches that fill the losses, `cells` (bags, classes), and the gradients that are given:
    see the C++ function of this name."""
    if cells.numel() == 0:
        return [], None
    call = Call(x, scores, parameters, mask, pooling, x_gradient, scores_gradient, shares)
    kernel = _FUSED.get(pooling.name, _weighted_average_kernel)
    tiling, held = _lanes(call)
    long = tiling.segments > 1 and not held
    alone = x_gradient is None or pooling.name in _APART or long
    return _one_by_one(call, labels, cells) if alone else [kernel(call, labels, cells)], None


def backward(filled: Tensor, by: Tensor) -> list[Launch]:
    """Launches that multiply gradients by a number, in place."""
    elements = filled.numel()
    arguments = {
        "values_ptr": filled,
        "by_ptr": by.to(tiles.arithmetic_dtype(filled)),
        "elements": elements,
        "BLOCK": _SCALED_ELEMENTS,
    }
    programs = triton.cdiv(elements, _SCALED_ELEMENTS)
    return [Launch(cross_entropy._cross_entropy_scale_kernel, programs, arguments)]


def labels_of(labels: Labels, stand_in: Tensor) -> dict[str, Any]:
    """The arguments of a kernel that reads labels."""
    target, weight, known, scale = labels
    return {
        "target_ptr": target,
        "weight_ptr": or_else(weight, stand_in),
        "known_ptr": stand_in if known is None else known.view(torch.uint8),
        "scale_ptr": scale,
        "LABELS": (weight is not None, known is not None),
    }


def slope_of(pooling: PooledLoss) -> int:
    """What the loss's gradient is taken with respect to, where more is known than y."""
    if pooling.name == "noisy_or":
        return cross_entropy.SURVIVAL.value
    if pooling.name == "max" and pooling.from_logits:
        return cross_entropy.LOGIT.value
    return cross_entropy.VALUE.value


def _one_by_one(call: Call, labels: Labels, cells: Tensor) -> list[Any]:
    """The pooling's own launches, with the loss's between forward and backward."""
    launches, statistics, backward = _STEPS.get(call.pooling.name, _weighted_average)(call)
    y = torch.empty_like(cells)
    gradient = torch.empty_like(cells)
    for launch in launches:
        # The bag values before they are rounded to x's dtype.
        if isinstance(launch, Launch) and "y_ptr" in launch.arguments:
            launch.arguments["y_ptr"] = y
    learned = 0 if call.shares is None else len(call.shares)
    loss = Launch(
        cross_entropy._cross_entropy_loss_kernel,
        triton.cdiv(cells.numel(), _CELLS),
        {
            "y_ptr": y,
            "statistics_ptr": statistics,
            "slopes_ptr": statistics[-learned:] if learned else statistics,
            **labels_of(labels, y),
            "loss_ptr": cells,
            "gradient_ptr": gradient,
            "shares_ptr": call.shares if learned else y,
            "cells": cells.numel(),
            "PARAMETERS": learned,
            "FROM_LOGITS": call.pooling.from_logits,
            "SLOPE": slope_of(call.pooling),
            "GRADIENTS": call.x_gradient is not None,
            "BLOCK_CELLS": _CELLS,
        },
    )
    if call.x_gradient is None:
        return [*launches, loss]
    saturations = []
    if call.x.dtype == torch.float16:
        filled = (call.x_gradient, call.scores_gradient)
        saturations = [_Saturation(one) for one in filled if one is not None]
    return [*launches, loss, *backward(gradient), *saturations]


def _lanes(call: Call) -> tuple[lanes.Lanes, bool]:
    """A block that holds a bag's frames of some classes or, if there is none, a part of them; and
    whether there is one."""
    tensors = (call.x, call.scores, call.x_gradient, call.scores_gradient)
    if call.pooling.name == "max":
        # Of x it needs no more than the largest frame for the gradient.
        return lanes.of(*tensors, thread_bytes=lanes.JOINED_BYTES), False
    crowded = _learns(call) or call.pooling.name in ("noisy_or", "log_mean_exp")
    # Log-mean-exp's series spill beside more frames of a class.
    series = call.pooling.name == "log_mean_exp" and call.x.stride(1) < call.x.stride(2)
    thread_bytes = lanes.ELEMENTWISE_BYTES if series else lanes.JOINED_BYTES
    held = lanes.holding(*tensors, crowded=crowded, thread_bytes=thread_bytes)
    return (lanes.of(*tensors), False) if held is None else (held, True)


def _fused(
    kernel: JITFunction, call: Call, labels: Labels, cells: Tensor, **arguments: Any
) -> Launch:
    """One launch for all: each program has a block of one bag's classes."""
    tiling, held = _lanes(call)
    gradients = (call.x_gradient, call.scores_gradient)
    constants = tiling.constants(call.x, call.scores, call.mask, *gradients)
    return Launch(
        kernel,
        tiling.bags * tiling.class_blocks,
        {
            **tiles.inputs(call.x, call.mask),
            **labels_of(labels, cells),
            "loss_ptr": cells,
            "x_gradient_ptr": call.x_gradient,
            "x_gradient_strides": call.to_x.stride(),
            "HELD": held,
            "BLOCK": replace(constants["BLOCK"], saturates=True),
            **arguments,
        },
        num_warps=tiling.warps,
        registers=min(_REGISTERS // (32 * tiling.warps), _THREAD_REGISTERS),
    )


def _weighted_average_kernel(call: Call, labels: Labels, cells: Tensor) -> Launch:
    alpha, power, _ = call.parameters
    pooling, x = call.pooling, call.x
    average = Average(pooling.name, pooling.score_activation, pooling.from_logits, _learns(call))
    launch = _fused(
        weighted_average_bce._weighted_average_bce_kernel,
        call,
        labels,
        cells,
        scores_ptr=or_else(call.scores, x),
        scores_strides=strides_of(call.scores),
        scores_gradient_ptr=or_else(call.scores_gradient, x),
        scores_gradient_strides=strides_of(call.scores_gradient),
        power_ptr=of_classes(power, x),
        alpha_ptr=of_classes(alpha, x),
        shares_ptr=call.shares,
        FORMULA=Formula.of(average, call.mask is not None),
    )
    del launch.arguments["MASKED"]
    return launch


def _maximum_kernel(call: Call, labels: Labels, cells: Tensor) -> Launch:
    launch = _fused(
        pool_bce_kernels._maximum_bce_kernel,
        call,
        labels,
        cells,
        FROM_LOGITS=call.pooling.from_logits,
    )
    del launch.arguments["HELD"]
    return launch


def _noisy_or_kernel(call: Call, labels: Labels, cells: Tensor) -> Launch:
    return _fused(
        pool_bce_kernels._noisy_or_bce_kernel,
        call,
        labels,
        cells,
        FROM_LOGITS=call.pooling.from_logits,
    )


def _log_mean_exp_kernel(call: Call, labels: Labels, cells: Tensor) -> Launch:
    return _fused(
        pool_bce_kernels._log_mean_exp_bce_kernel,
        call,
        labels,
        cells,
        sharpness_ptr=of_classes(call.parameters[2], call.x),
        shares_ptr=call.shares,
        FROM_LOGITS=call.pooling.from_logits,
    )


_FUSED: dict[str, Callable[[Call, Labels, Tensor], Launch]] = {
    "max": _maximum_kernel,
    "noisy_or": _noisy_or_kernel,
    "log_mean_exp": _log_mean_exp_kernel,
}

#: Poolings whose passes are launches of their own.
_APART = ("class_attention", "rank")


def _learns(call: Call) -> bool:
    return call.shares is not None and len(call.shares) > 0


@dataclass(frozen=True)
class _Saturation:
    """Infinities become float16's largest numbers: a step after the launches."""

    filled: Tensor

    def run(self) -> None:
        largest = torch.finfo(torch.float16).max
        self.filled.clamp_(-largest, largest)


#: A family's forward launches, what they leave, and its backward launches for a gradient.
_Steps = tuple[list[Any], Tensor, Callable[[Tensor], list[Launch]]]


def _weighted_average(call: Call) -> _Steps:
    alpha, power, _ = call.parameters
    pooling = call.pooling
    average = Average(pooling.name, pooling.score_activation, pooling.from_logits, _learns(call))
    inputs = (call.x, call.scores, power, alpha, call.mask)
    launches, (_, statistics) = weighted_average.forward(*inputs, average)
    return (
        launches,
        statistics,
        lambda gradient: weighted_average.backward(
            gradient, *inputs, statistics, average, call.to_x, call.scores_gradient, None, None
        ),
    )


def _maximum(call: Call) -> _Steps:
    # The maximum's logit, whose sigmoid would be rounded, in both directions.
    launches, (_, places) = maximum.forward(call.x, call.mask, False, False)
    return (
        launches,
        places,
        lambda gradient: maximum.backward(
            gradient, call.x, call.mask, places, False, False, call.to_x
        ),
    )


def _noisy_or(call: Call) -> _Steps:
    inputs, from_logits = (call.x, call.mask), call.pooling.from_logits
    launches, (_, statistics) = noisy_or.forward(*inputs, from_logits)
    return (
        launches,
        statistics,
        lambda gradient: noisy_or.backward(gradient, *inputs, statistics, from_logits, call.to_x),
    )


def _log_mean_exp(call: Call) -> _Steps:
    sharpness, from_logits = cast(Tensor, call.parameters[2]), call.pooling.from_logits
    inputs = (call.x, sharpness, call.mask)
    launches, (_, statistics) = log_mean_exp.forward(*inputs, from_logits, call.shares is not None)
    return (
        launches,
        statistics,
        lambda gradient: log_mean_exp.backward(
            gradient, *inputs, statistics, from_logits, call.to_x, None
        ),
    )


def _class_attention(call: Call) -> _Steps:
    inputs = (call.x, cast(Tensor, call.scores), call.mask)
    options = (call.pooling.score_activation, call.pooling.from_logits)
    launches, (_, statistics) = class_attention.forward(*inputs, *options)
    return (
        launches,
        statistics,
        lambda gradient: class_attention.backward(
            gradient, *inputs, statistics, *options, call.to_x, call.scores_gradient
        ),
    )


def _rank(call: Call) -> _Steps:
    x, pooling = call.x, call.pooling
    dtype = torch.int16 if x.shape[2] <= SHORT_BAG else torch.int32
    ranks = None if call.x_gradient is None else torch.empty_like(x, dtype=dtype)
    order = (pooling.decay, pooling.from_logits)
    launches, (_, total) = rank.forward(x, call.mask, *order, ranks)
    return (
        launches,
        total,
        lambda gradient: rank.backward(gradient, x, cast(Tensor, ranks), total, *order, call.to_x),
    )


_STEPS: dict[str, Callable[[Call], _Steps]] = {
    "max": _maximum,
    "noisy_or": _noisy_or,
    "log_mean_exp": _log_mean_exp,
    "class_attention": _class_attention,
    "rank": _rank,
}
