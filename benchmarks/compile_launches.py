"""One kernel to compile, and the launches of each family on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average, PooledLoss
from milkernels.kernels import (
    class_attention,
    gated_fusion,
    linear_attention,
    log_mean_exp,
    maximum,
    noisy_or,
    packed,
    pool_bce,
    rank,
    statistics,
    weighted_average,
)
from milkernels.kernels.lanes import Block
from milkernels.kernels.launch import Launch

LAYOUTS = ("classes_first", "frames_first")

#: Long bags of two classes side by side, frames first: short rows, whose tiles are flat.
FEW_CLASSES = "few_classes"
_FEW_CLASSES_SHAPE = (4, 2, 32768)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

#: (bags, classes, frames) whose rows are a multiple of 16 elements in both layouts, and bags so
#: long that a launch cuts them and merges the parts.
_SHAPE = (64, 528, 400)
_LONG_SHAPE = (4, 64, 32768)

#: Rows that are a multiple of 4 alone, and who has them.
_SHORT_SHAPE = (64, 528, 100)
_OF_SHORT_ROWS = ("class_attention", "max")

#: More classes than a tile of them all holds.
_MANY_CLASSES_SHAPE = (64, 2048, 100)

#: Shapes that a kernel needs to be launched at all.
_SHAPES = {
    "merge": _LONG_SHAPE,
    "keys": _LONG_SHAPE,
    "weigh": _LONG_SHAPE,
    "frames": _MANY_CLASSES_SHAPE,
}

#: Sizes without which a kernel is not launched: long bags, many classes, wide heads.
_NEEDED = {
    **dict.fromkeys(("merge", "keys", "weigh"), (32768,)),
    **dict.fromkeys(("scores", "frames"), (2048, 4096)),
}

#: Rows, and the positions of one whose weights fit a tile or do not: two-step attention's.
_ROWS = 64 * 984
_WIDTHS = {"linear_attention": 64, "linear_attention_wide": 311}

#: (bags, channels, frames) and heads of embeddings: GMAP's, and one head too wide for a tile.
_EMBEDDING_SHAPE, _HEADS = (64, 512, 100), 4
_WIDE_SHAPE, _WIDE_HEADS = (4, 4096, 32768), 1


@dataclass(frozen=True)
class CompileCase:
    """One kernel for one GPU.

    `everything` turns on what a kernel can be compiled for: a mask, logits, gradients of learned
    parameters, an activation of the scores. `direction` is forward, merge or backward, or
    another step of a family. `smallest` makes 1 of every size that need not be larger for the
    kernel to be launched.
    """

    target: str
    member: str
    direction: str
    layout: str
    dtype: str
    everything: bool
    smallest: bool = False

    @property
    def kernel(self) -> str:
        family, _ = FAMILIES[self.member]
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of aligned rows of frames."""
        if self.layout not in LAYOUTS:
            return False
        if self.direction == "backward":
            if self.member in ("max", "rank"):
                return self.member == "rank" and self.everything
            return self.everything or self.member not in ("mean", "max_mean")
        return self.direction in ("forward", "scores", "keys", "frames", "bce")

    @property
    def writes_frames(self) -> bool:
        return self.layout in LAYOUTS and self.direction in ("backward", "keys", "bce")

    @property
    def elements_per_thread(self) -> float | None:
        """Of a block, if the kernel walks through blocks and does little else."""
        if self.direction not in ("forward", "backward") or self.member.startswith("packed"):
            return None
        launch = self.launch()
        block = launch.arguments.get("BLOCK")
        if not isinstance(block, Block):
            return None
        return block.step * block.classes / (32 * launch.num_warps)

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        _, build = FAMILIES[self.member]
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

    def sizes(self, *sizes: int) -> tuple[int, ...]:
        """Sizes of the case's tensors, 1 of the smallest one but where a launch needs more."""
        needed = _NEEDED.get(self.direction, ())
        if self.smallest:
            return tuple(size if size in needed else 1 for size in sizes)
        return sizes

    def frames(self) -> Tensor:
        """A (bags, classes, frames) view in the case's layout."""
        shape = _SHAPES.get(self.direction, _SHAPE)
        if self.layout == FEW_CLASSES:
            shape = _FEW_CLASSES_SHAPE
        elif shape == _SHAPE and self.member in _OF_SHORT_ROWS:
            shape = _SHORT_SHAPE
        bags, classes, frames = self.sizes(*shape)
        if self.layout == "classes_first":
            return self.empty(bags, classes, frames)
        return self.empty(bags, frames, classes).transpose(1, 2)


def _maximum(case: CompileCase, member: str) -> list[Any]:
    x, mask = case.frames(), case.mask()
    flags = (case.everything, member == "max_mean")
    launches, (y, places) = maximum.forward(x, mask, *flags)
    return [*launches, *maximum.backward(y, x, mask, places, *flags, case.frames())]


def _noisy_or(case: CompileCase, _: str) -> list[Any]:
    x, mask = case.frames(), case.mask()
    launches, (y, statistics) = noisy_or.forward(x, mask, case.everything)
    backward = noisy_or.backward(y, x, mask, statistics, case.everything, case.frames())
    return [*launches, *backward]


def _log_mean_exp(case: CompileCase, _: str) -> list[Any]:
    x, mask = case.frames(), case.mask()
    inputs = (x, case.empty(x.shape[1]), mask)
    launches, (y, statistics) = log_mean_exp.forward(*inputs, case.everything, case.everything)
    sharpness_gradient = case.empty(x.shape[1]) if case.everything else None
    gradients = (case.frames(), sharpness_gradient)
    backward = log_mean_exp.backward(y, *inputs, statistics, case.everything, *gradients)
    return [*launches, *backward]


def _class_attention(case: CompileCase, _: str) -> list[Any]:
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


def _weighted_average(case: CompileCase, member: str) -> list[Any]:
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


def _packed(case: CompileCase, member: str) -> list[Any]:
    """Many instances in bags of different lengths; kernels know none of these."""
    name = member.removeprefix("packed_")
    x, (bags,) = case.frames()[0].t(), case.sizes(1024)
    offsets = case.empty(bags + 1, dtype=torch.int64)
    coefficients = WEIGHTED_AVERAGES.get(name)
    power, alpha = (
        case.empty(x.shape[1]) if coefficients and key in coefficients.learned else None
        for key in ("power", "alpha")
    )
    sharpness = case.empty(x.shape[1]) if name == "log_mean_exp" else None
    inputs: tuple[Any, ...] = (x, offsets, None, power, alpha, sharpness)
    options: tuple[Any, ...] = (name, None, 1.0, case.everything, case.everything)
    y = case.empty(bags, x.shape[1])
    arithmetic = torch.float64 if case.dtype == "float64" else torch.float32
    saved = (
        case.empty(5, bags, x.shape[1], dtype=arithmetic),
        case.empty(2, bags, x.shape[1], dtype=torch.int64),
    )
    forward: list[Any] = [*inputs, *options, y, *saved]
    launches, _ = packed.forward(*forward)
    gradients: tuple[Any, ...] = (torch.empty_like(x), None, power, alpha, sharpness)
    backward: list[Any] = [y, *inputs, *saved, *options, *gradients]
    return [*launches, *packed.backward(*backward)]


def _statistics(case: CompileCase, member: str) -> list[Any]:
    wide = case.direction in ("scores", "merge")
    shape, heads = (_WIDE_SHAPE, _WIDE_HEADS) if wide else (_EMBEDDING_SHAPE, _HEADS)
    bags, channels, frames, heads = case.sizes(*shape, heads)

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
    launches, (y, normaliser, moments) = statistics.forward(*inputs, 1e-7)
    gradients = (of_frames(channels), query, scores)
    saved = (normaliser, moments)
    return [*launches, *statistics.backward(y, *inputs, *saved, 1e-7, *gradients)]


def _gated_fusion(case: CompileCase, _: str) -> list[Any]:
    c = case.empty(*case.sizes(64, 1024))
    launches, y = gated_fusion.forward(c, c)
    return [*launches, *gated_fusion.backward(y, c, c, y, y)]


def _linear_attention(case: CompileCase, member: str) -> list[Any]:
    """With everything the paper's form, float32 in TensorFloat-32; else the code's form in full
    precision."""
    width = _WIDTHS[member]
    layers = [case.empty(*shape) for shape in ((width, width), (width,)) * 2]
    arithmetic = torch.float64 if case.dtype == "float64" else torch.float32
    (rows,), variant = case.sizes(_ROWS), ("code", "paper")[case.everything]
    statistics = case.empty(3 * rows, dtype=arithmetic)
    z, y = case.empty(rows, width), case.empty(rows)
    with _pytorch_for(case):
        launches, _ = linear_attention.forward(z, layers, variant, y, statistics)
        launches += linear_attention.backward(y, z, layers, statistics, variant, z, [*layers])
    return launches


@contextmanager
def _pytorch_for(case: CompileCase) -> Iterator[None]:
    """PyTorch as it is where the target is, told how to multiply matrices."""
    matmul, version = torch.backends.cuda.matmul, torch.version
    before = matmul.fp32_precision, version.hip
    matmul.fp32_precision = ("ieee", "tf32")[case.everything]
    version.hip = case.target if case.target.startswith("gfx") else None
    try:
        yield
    finally:
        matmul.fp32_precision, version.hip = before


def _pool_bce(case: CompileCase, member: str) -> list[Any]:
    """The pooling of the member's name with its loss: in one kernel, or by the loss's own."""
    name = member.removesuffix("_bce")
    x = case.frames()
    coefficients = WEIGHTED_AVERAGES.get(name)
    scored = name == "class_attention" or (coefficients is not None and coefficients.scores)
    learned: tuple[str, ...] = ("sharpness",) if name == "log_mean_exp" else ()
    learned = coefficients.learned if coefficients is not None else learned
    compute = torch.float64 if case.dtype == "float64" else torch.float32
    cells, shares = (
        case.empty(*shape, *x.shape[:2], dtype=compute) for shape in ((), (len(learned),))
    )
    known = case.empty(*x.shape[:2], dtype=torch.bool) if case.everything else None
    labels = (cells, cells if case.everything else None, known, case.empty(dtype=compute))
    parameters: Any = tuple(
        case.empty(x.shape[1]) if parameter in learned else None
        for parameter in ("alpha", "power", "sharpness")
    )
    pooling = PooledLoss(name, 0.9, None, case.everything)
    scores = case.frames() if scored else None
    inputs = (x, scores, parameters, case.mask(), labels, pooling, cells)
    launches, _ = pool_bce.forward(*inputs, case.frames(), scores, shares)
    if case.direction == "scale":
        return pool_bce.backward(x, cells[0, 0])
    return launches


#: Family of a member, and its launches for a case.
FAMILIES: dict[str, tuple[str, Callable[[CompileCase, str], list[Any]]]] = {
    **dict.fromkeys(WEIGHTED_AVERAGES, ("weighted_average", _weighted_average)),
    "max": ("maximum", _maximum),
    "max_mean": ("maximum", _maximum),
    "noisy_or": ("noisy_or", _noisy_or),
    "log_mean_exp": ("log_mean_exp", _log_mean_exp),
    "class_attention": ("class_attention", _class_attention),
    "rank": ("rank", _rank),
    **{
        f"packed_{name}": ("packed", _packed)
        for name in (*WEIGHTED_AVERAGES, "max", "max_mean", "noisy_or", "log_mean_exp")
        if name != "attention"
    },
    "attention_stats": ("statistics", _statistics),
    "weighted_stats": ("statistics", _statistics),
    "gated_fusion": ("gated_fusion", _gated_fusion),
    **{name: (name, _linear_attention) for name in _WIDTHS},
    "power_exp_bce": ("weighted_average", _pool_bce),
    "max_bce": ("maximum", _pool_bce),
    "noisy_or_bce": ("noisy_or", _pool_bce),
    "log_mean_exp_bce": ("log_mean_exp", _pool_bce),
    "rank_bce": ("cross_entropy", _pool_bce),
}
