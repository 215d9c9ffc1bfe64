"""The kernels to compile: every one of the family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import (
    linear_attention,
    log_mean_exp,
    maximum,
    noisy_or,
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
LINEAR_ATTENTION = "linear_attention"

#: Rows, and the positions of one whose weights fit a tile or do not: two-step attention's.
_ROWS = 64 * 984
_WIDTHS = {LINEAR_ATTENTION: 64, f"{LINEAR_ATTENTION}_wide": 311}

#: (bags, classes, frames) whose rows are a multiple of 16 elements in both layouts, and bags so
#: long that a launch cuts them and merges the parts.
_SHAPE = (64, 528, 400)
_LONG_SHAPE = (4, 64, 32768)


@dataclass(frozen=True)
class CompileCase:
    """One kernel for one GPU.

    `everything` turns on what a kernel can be compiled for: a mask, logits, gradients of learned
    parameters, an activation of the scores. `direction` is forward, merge or backward.
    """

    target: str
    member: str
    direction: str
    layout: str
    dtype: str
    everything: bool

    @property
    def kernel(self) -> str:
        family, _ = _FAMILIES.get(self.member) or _ROW_FAMILIES.get(self.member, _WEIGHTED_AVERAGE)
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of frames."""
        if self.layout == "rows":
            return False
        if self.direction == "backward":
            return self.member != MAXIMUM and (
                self.everything or self.member not in ("mean", MAX_MEAN)
            )
        return self.direction == "forward"

    @property
    def writes_frames(self) -> bool:
        return self.direction == "backward" and self.layout != "rows"

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        _, build = _FAMILIES.get(self.member) or _ROW_FAMILIES.get(self.member, _WEIGHTED_AVERAGE)
        launches = build(self, self.member)
        return {launch.kernel.__name__: launch for launch in launches}[f"_{self.kernel}_kernel"]

    def mask(self) -> Tensor | None:
        """A mask (bags, frames), with everything on."""
        bags, _, frames = self.frames().shape
        return self.empty(bags, frames, dtype=torch.bool) if self.everything else None

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor without memory, of the case's dtype unless told."""
        return torch.empty(shape, dtype=dtype or DTYPES[self.dtype], device="meta")

    def frames(self) -> Tensor:
        """A (bags, classes, frames) view in the case's layout."""
        bags, classes, frames = _LONG_SHAPE if self.direction == "merge" else _SHAPE
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
_WEIGHTED_AVERAGE = ("weighted_average", _weighted_average)
_FAMILIES = {
    MAXIMUM: ("maximum", _maximum),
    MAX_MEAN: ("maximum", _maximum),
    NOISY_OR: ("noisy_or", _noisy_or),
    LOG_MEAN_EXP: ("log_mean_exp", _log_mean_exp),
}
_ROW_FAMILIES = {name: (name, _linear_attention) for name in _WIDTHS}


def _row_cases(target: str, dtypes: tuple[str, ...]) -> Iterator[CompileCase]:
    """Linear attention with and without all in one tile: its rows are contiguous."""
    directions = {
        LINEAR_ATTENTION: ("forward", "backward", "merge"),
        f"{LINEAR_ATTENTION}_wide": ("forward", "input", "layer"),
    }
    for member in _ROW_FAMILIES:
        for direction in directions[member]:
            for dtype in dtypes:
                yield CompileCase(target, member, direction, "rows", dtype, True)


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
    yield from _row_cases(target, ("bfloat16",))


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
            yield CompileCase(target, member, direction, "classes_first", "float64", True)
    yield from _row_cases(target, ("float32", "bfloat16"))
    if not target.startswith("gfx"):
        # On AMD's the launches of full precision are others: the matrix units have it.
        for direction in ("forward", "backward"):
            yield CompileCase(target, LINEAR_ATTENTION, direction, "rows", "float32", False)
