"""The kernels to compile: every one of the family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import (
    class_attention,
    gated_fusion,
    log_mean_exp,
    maximum,
    noisy_or,
    rank,
    statistics,
    weighted_average,
)
from milkernels.kernels.launch import Launch

LAYOUTS = ("classes_first", "frames_first")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
MAXIMUM = "max"
MAX_MEAN = "max_mean"
NOISY_OR = "noisy_or"
LOG_MEAN_EXP = "log_mean_exp"
ATTENTION_STATS = "attention_stats"
WEIGHTED_STATS = "weighted_stats"
GATED_FUSION = "gated_fusion"
CLASS_ATTENTION = "class_attention"
RANK = "rank"

#: (bags, classes, frames) whose rows are a multiple of 16 elements in both layouts, and bags so
#: long that a launch cuts them and merges the parts.
_SHAPE = (64, 528, 400)
_LONG_SHAPE = (4, 64, 32768)

#: (bags, channels, frames) and heads of embeddings: GMAP's, and one head too wide for a tile.
_EMBEDDING_SHAPE, _HEADS = (64, 512, 400), 4
_WIDE_SHAPE, _WIDE_HEADS = (4, 4096, 32768), 1
#: More classes than a tile of them all holds.
_MANY_CLASSES_SHAPE = (64, 2048, 400)

#: Shapes that a kernel needs to be launched at all.
_SHAPES = {
    "merge": _LONG_SHAPE,
    "keys": _LONG_SHAPE,
    "weigh": _LONG_SHAPE,
    "frames": _MANY_CLASSES_SHAPE,
}


@dataclass(frozen=True)
class CompileCase:
    """One kernel for one GPU.

    `everything` turns on what a kernel can be compiled for: a mask, logits, gradients of learned
    parameters, an activation of the scores. `direction` is forward, merge or backward, or
    another step of a family.
    """

    target: str
    member: str
    direction: str
    layout: str
    dtype: str
    everything: bool

    @property
    def kernel(self) -> str:
        family, _ = {**_FAMILIES, **_OF_EMBEDDINGS}.get(self.member, _WEIGHTED_AVERAGE)
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of x."""
        if self.direction == "backward":
            if self.member in (MAXIMUM, RANK):
                return self.member == RANK and self.everything
            return self.everything or self.member not in ("mean", MAX_MEAN)
        return self.direction in ("forward", "scores", "keys", "frames")

    @property
    def writes_frames(self) -> bool:
        return self.direction in ("backward", "keys")

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        _, build = {**_FAMILIES, **_OF_EMBEDDINGS}.get(self.member, _WEIGHTED_AVERAGE)
        launches = build(self, self.member)
        kernels = {
            launch.kernel.__name__: launch for launch in launches if isinstance(launch, Launch)
        }
        return kernels[f"_{self.kernel}_kernel"]

    def mask(self) -> Tensor | None:
        """A mask (bags, frames), with everything on."""
        bags, _, frames = self.frames().shape
        return self.empty(bags, frames, dtype=torch.bool) if self.everything else None

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor without memory, of the case's dtype unless told."""
        return torch.empty(shape, dtype=dtype or DTYPES[self.dtype], device="meta")

    def frames(self) -> Tensor:
        """A (bags, classes, frames) view in the case's layout."""
        bags, classes, frames = _SHAPES.get(self.direction, _SHAPE)
        if self.layout == "classes_first":
            return self.empty(bags, classes, frames)
        return self.empty(bags, frames, classes).transpose(1, 2)


def _maximum(case: CompileCase, member: str) -> list[Launch]:
    x, mask = case.frames(), case.mask()
    flags = (case.everything, member == MAX_MEAN)
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
    if member == ATTENTION_STATS:
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


#: Family of a member, and its launches for a case.
_WEIGHTED_AVERAGE = ("weighted_average", _weighted_average)
_FAMILIES = {
    MAXIMUM: ("maximum", _maximum),
    MAX_MEAN: ("maximum", _maximum),
    NOISY_OR: ("noisy_or", _noisy_or),
    LOG_MEAN_EXP: ("log_mean_exp", _log_mean_exp),
    CLASS_ATTENTION: ("class_attention", _class_attention),
    RANK: ("rank", _rank),
}
_OF_EMBEDDINGS = {
    ATTENTION_STATS: ("statistics", _statistics),
    WEIGHTED_STATS: ("statistics", _statistics),
    GATED_FUSION: ("gated_fusion", _gated_fusion),
}

#: Kernels of a family beside forward, merge and backward.
_FURTHER = ((CLASS_ATTENTION, "frames"), (RANK, "keys"), (RANK, "weigh"))


def quick_cases(target: str) -> Iterator[CompileCase]:
    """Each kernel with everything on, those that reduce in their own way in both layouts, and the
    plain mean."""
    both = ("power_exp", NOISY_OR)
    for member in ("power_exp", *_FAMILIES):
        layouts = LAYOUTS if member in both else LAYOUTS[:1]
        for layout in layouts:
            for direction in ("forward", "backward"):
                yield CompileCase(target, member, direction, layout, "float32", True)
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for direction in ("forward", "backward"):
        yield CompileCase(target, "mean", direction, "frames_first", "float32", False)
    yield from _cases_of_embeddings(target, (ATTENTION_STATS,), "float32")
    for member in (CLASS_ATTENTION, RANK):
        for direction, layout in product(("forward", "backward"), LAYOUTS):
            yield CompileCase(target, member, direction, layout, "float32", True)
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for member, direction in _FURTHER:
        yield CompileCase(target, member, direction, "classes_first", "float32", True)


def _cases_of_embeddings(
    target: str, members: tuple[str, ...], dtype: str
) -> Iterator[CompileCase]:
    for direction in ("forward", "backward"):
        for member, layout in product(members, LAYOUTS):
            yield CompileCase(target, member, direction, layout, dtype, True)
        yield CompileCase(target, GATED_FUSION, direction, "classes_first", dtype, True)
    for direction in ("merge", "scores", "sum"):
        yield CompileCase(target, ATTENTION_STATS, direction, "classes_first", dtype, True)


def all_cases(target: str) -> Iterator[CompileCase]:
    """Every member with everything on, in both layouts and dtypes; the plain mean and
    families of their own; merges with and without moments; float64."""
    for member in (*WEIGHTED_AVERAGES, *_FAMILIES):
        for direction in ("forward", "backward"):
            for layout in LAYOUTS:
                for dtype in ("float32", "bfloat16"):
                    yield CompileCase(target, member, direction, layout, dtype, True)
            if member in ("mean", *_FAMILIES):
                yield CompileCase(target, member, direction, "frames_first", "float32", False)
    for member in ("mean", "power_exp", *_FAMILIES):
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for member in ("power_exp", *_FAMILIES):
        for direction in ("forward", "merge", "backward"):
            # In float64 no bag is ranked by one kernel.
            if (member, direction) != (RANK, "forward"):
                yield CompileCase(target, member, direction, "classes_first", "float64", True)
    for (member, direction), dtype in product(_FURTHER, DTYPES):
        yield CompileCase(target, member, direction, "frames_first", dtype, True)
    for dtype in ("float32", "bfloat16"):
        yield from _cases_of_embeddings(target, (ATTENTION_STATS, WEIGHTED_STATS), dtype)
    for direction in ("forward", "backward"):
        yield CompileCase(target, ATTENTION_STATS, direction, "classes_first", "float64", True)
