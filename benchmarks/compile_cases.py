"""The kernels to compile: every one of the family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import log_mean_exp, maximum, noisy_or, weighted_average
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
        family, _ = _FAMILIES.get(self.member, _WEIGHTED_AVERAGE)
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of x."""
        if self.direction == "backward":
            return self.member != MAXIMUM and (
                self.everything or self.member not in ("mean", MAX_MEAN)
            )
        return self.direction == "forward"

    @property
    def writes_frames(self) -> bool:
        return self.direction == "backward"

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        _, build = _FAMILIES.get(self.member, _WEIGHTED_AVERAGE)
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


#: Family of a member, and its launches for a case.
_WEIGHTED_AVERAGE = ("weighted_average", _weighted_average)
_FAMILIES = {
    MAXIMUM: ("maximum", _maximum),
    MAX_MEAN: ("maximum", _maximum),
    NOISY_OR: ("noisy_or", _noisy_or),
    LOG_MEAN_EXP: ("log_mean_exp", _log_mean_exp),
}


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
