"""The launches of each family's kernels on tensors without memory, for `compile_cases`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import (
    class_attention,
    gated_fusion,
    linear_attention,
    log_mean_exp,
    maximum,
    noisy_or,
    rank,
    statistics,
    weighted_average,
)
from milkernels.kernels.launch import Launch

if TYPE_CHECKING:
    from benchmarks.compile_cases import CompileCase

#: Rows, and the positions of one whose weights fit a tile or do not: two-step attention's.
_ROWS = 64 * 984
_WIDTHS = {"linear_attention": 64, "linear_attention_wide": 311}

#: (bags, channels, frames) and heads of embeddings: GMAP's, and one head too wide for a tile.
_EMBEDDING_SHAPE, _HEADS = (64, 512, 400), 4
_WIDE_SHAPE, _WIDE_HEADS = (4, 4096, 32768), 1


def _maximum(case: CompileCase, member: str) -> list[Launch]:
    x, mask = case.frames(), case.mask()
    flags = (case.everything, member == "max_mean")
    launches, (y, places) = maximum.forward(x, mask, *flags)
    return [*launches, *maximum.backward(y, x, mask, places, *flags, case.frames())]


def _noisy_or(case: CompileCase, _: str) -> list[Launch]:
    x, mask = case.frames(), case.mask()
    launches, (y, statistics) = noisy_or.forward(x, mask, case.everything)
    backward = noisy_or.backward(y, x, mask, statistics, case.everything, case.frames())
    return [*launches, *backward]


def _log_mean_exp(case: CompileCase, _: str) -> list[Launch]:
    x, mask = case.frames(), case.mask()
    inputs = (x, case.empty(x.shape[1]), mask)
    launches, (y, statistics) = log_mean_exp.forward(*inputs, case.everything, case.everything)
    sharpness_gradient = case.empty(x.shape[1]) if case.everything else None
    gradients = (case.frames(), sharpness_gradient)
    backward = log_mean_exp.backward(y, *inputs, statistics, case.everything, *gradients)
    return [*launches, *backward]


def _class_attention(case: CompileCase, _: str) -> list[Launch]:
    activation = "tanh" if case.everything else None
    options = (activation, case.everything)
    inputs = (case.frames(), case.frames(), case.mask())
    launches, (y, statistics) = class_attention.forward(*inputs, *options)
    gradients = (case.frames(), case.frames())
    return [*class_attention.backward(y, *inputs, statistics, *options, *gradients), *launches]


def _rank(case: CompileCase, _: str) -> list[Launch | rank.Sort]:
    x, mask = case.frames(), case.mask()
    ranks = torch.empty_like(x, dtype=torch.int16)
    launches, (y, total) = rank.forward(x, mask, 0.9, case.everything, ranks)
    backward = rank.backward(y, x, ranks, total, 0.9, case.everything, case.frames())
    return [*launches, *backward]


def _weighted_average(case: CompileCase, member: str) -> list[Launch]:
    x, mask = case.frames(), case.mask()
    coefficients = WEIGHTED_AVERAGES[member]
    scores = case.frames() if coefficients.scores else None
    activation = "tanh" if coefficients.scores and case.everything else None
    power, alpha = (
        case.empty(x.shape[1]) if name in coefficients.learned else None
        for name in ("power", "alpha")
    )
    average = Average(member, activation, case.everything, case.everything)
    inputs = (x, scores, power, alpha, mask)
    launches, (y, statistics) = weighted_average.forward(*inputs, average)
    gradients = (
        case.frames(),
        None if scores is None else case.frames(),
        power if case.everything else None,
        alpha if case.everything else None,
    )
    backward = weighted_average.backward(y, *inputs, statistics, average, *gradients)
    return [*launches, *backward]


def _statistics(case: CompileCase, member: str) -> list[Launch]:
    wide = case.direction in ("scores", "merge")
    shape, heads = (_WIDE_SHAPE, _WIDE_HEADS) if wide else (_EMBEDDING_SHAPE, _HEADS)
    bags, channels, frames = shape

    def of_frames(count: int) -> Tensor:
        if case.layout == "classes_first":
            return case.empty(bags, count, frames)
        return case.empty(bags, frames, count).transpose(1, 2)

    h = of_frames(channels)
    query = scores = None
    if member == "attention_stats":
        query = case.empty(heads, channels // heads)
    else:
        scores = of_frames(heads)
    mask = case.empty(bags, frames, dtype=torch.bool) if case.everything else None
    inputs = (h, query, scores, mask)
    launches, (y, *saved) = statistics.forward(*inputs, 1e-7)
    gradients = (of_frames(channels), query, scores)
    return [*launches, *statistics.backward(y, *inputs, *saved, 1e-7, *gradients)]


def _gated_fusion(case: CompileCase, _: str) -> list[Launch]:
    c = case.empty(64, 1024)
    launches, y = gated_fusion.forward(c, c)
    return [*launches, *gated_fusion.backward(y, c, c, y, y)]


def _linear_attention(case: CompileCase, member: str) -> list[Launch]:
    """With everything the paper's form, float32 in TensorFloat-32; else the code's form in full
    precision."""
    width = _WIDTHS[member]
    layers = [case.empty(*shape) for shape in ((width, width), (width,)) * 2]
    arithmetic = torch.float64 if case.dtype == "float64" else torch.float32
    statistics = case.empty(3 * _ROWS, dtype=arithmetic)
    z, y, variant = case.empty(_ROWS, width), case.empty(_ROWS), ("code", "paper")[case.everything]
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, ("ieee", "tf32")[case.everything]
    try:
        launches, _ = linear_attention.forward(z, layers, variant, y, statistics)
        launches += linear_attention.backward(y, z, layers, statistics, variant, z, layers)
    finally:
        matmul.fp32_precision = before
    return launches


#: Family of a member, and its launches for a case.
FAMILIES: dict[str, tuple[str, Callable[[CompileCase, str], list[Launch]]]] = {
    **dict.fromkeys(WEIGHTED_AVERAGES, ("weighted_average", _weighted_average)),
    "max": ("maximum", _maximum),
    "max_mean": ("maximum", _maximum),
    "noisy_or": ("noisy_or", _noisy_or),
    "log_mean_exp": ("log_mean_exp", _log_mean_exp),
    "class_attention": ("class_attention", _class_attention),
    "rank": ("rank", _rank),
    "attention_stats": ("statistics", _statistics),
    "weighted_stats": ("statistics", _statistics),
    "gated_fusion": ("gated_fusion", _gated_fusion),
    **{name: (name, _linear_attention) for name in _WIDTHS},
}
