"""The kernels to compile: every one of the family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES
from milkernels.kernels import maximum, weighted_average_launch
from milkernels.kernels.launch import Launch

LAYOUTS = ("classes_first", "frames_first")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
MAXIMUM = "max"

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
        family = "maximum" if self.member == MAXIMUM else "weighted_average"
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of x."""
        if self.direction == "backward":
            return self.member != MAXIMUM and (self.everything or self.member != "mean")
        return self.direction == "forward"

    @property
    def writes_frames(self) -> bool:
        return self.direction == "backward"

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        x = self._frames()
        bags, classes, frames = x.shape
        mask = (
            torch.empty((bags, frames), dtype=torch.bool, device="meta")
            if self.everything
            else None
        )
        if self.member == MAXIMUM:
            launches, (y, index) = maximum.forward(x, mask, self.everything)
            if self.direction == "backward":
                return maximum.backward(y, x, index, self.everything, self._frames())
            return launches[self.direction == "merge"]
        coefficients = WEIGHTED_AVERAGES[self.member]
        scores = self._frames() if coefficients.scores else None
        activation = "tanh" if coefficients.scores and self.everything else None
        power, alpha = (
            torch.empty(classes, dtype=x.dtype, device="meta")
            if name in coefficients.learned
            else None
            for name in ("power", "alpha")
        )
        inputs = (x, scores, power, alpha, mask)
        launches, (y, statistics) = weighted_average_launch.forward(
            self.member, *inputs, activation, self.everything, self.everything
        )
        if self.direction != "backward":
            return launches[self.direction == "merge"]
        gradients = (
            self._frames(),
            None if scores is None else self._frames(),
            power if self.everything else None,
            alpha if self.everything else None,
        )
        return weighted_average_launch.backward(
            self.member, y, *inputs, statistics, activation, self.everything, *gradients
        )

    def _frames(self) -> Tensor:
        bags, classes, frames = _LONG_SHAPE if self.direction == "merge" else _SHAPE
        dtype = DTYPES[self.dtype]
        if self.layout == "classes_first":
            return torch.empty((bags, classes, frames), dtype=dtype, device="meta")
        return torch.empty((bags, frames, classes), dtype=dtype, device="meta").transpose(1, 2)


def quick_cases(target: str) -> Iterator[CompileCase]:
    """Each kernel with everything on, the weighted average in both layouts, and the plain mean."""
    for member, layouts in (("power_exp", LAYOUTS), (MAXIMUM, LAYOUTS[:1])):
        for layout in layouts:
            for direction in ("forward", "backward"):
                yield CompileCase(target, member, direction, layout, "float32", True)
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for direction in ("forward", "backward"):
        yield CompileCase(target, "mean", direction, "frames_first", "float32", False)


def all_cases(target: str) -> Iterator[CompileCase]:
    """Every member with everything on, in both layouts and dtypes; the plain mean and maximum;
    merges with and without moments; float64."""
    for member in (*WEIGHTED_AVERAGES, MAXIMUM):
        for direction in ("forward", "backward"):
            for layout in LAYOUTS:
                for dtype in ("float32", "bfloat16"):
                    yield CompileCase(target, member, direction, layout, dtype, True)
            if member in ("mean", MAXIMUM):
                yield CompileCase(target, member, direction, "frames_first", "float32", False)
    for member in ("mean", "power_exp", MAXIMUM):
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for direction in ("forward", "merge", "backward"):
        yield CompileCase(target, "power_exp", direction, "classes_first", "float64", True)
