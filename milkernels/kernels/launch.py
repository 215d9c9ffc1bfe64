"""A kernel with its grid and arguments: run here, or compiled for a GPU that is not here."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from milkernels.kernels import tiles


def or_else(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A pointer for an argument that the kernel's flags leave untouched."""
    return stand_in if tensor is None else tensor


def strides_of(tensor: Tensor | None) -> tuple[int, ...]:
    """Strides of a (bags, classes, frames) tensor that there may not be."""
    return (0, 0, 0) if tensor is None else tensor.stride()


def of_classes(parameter: Tensor | None, stand_in: Tensor) -> Tensor:
    """A parameter (classes,) as kernels read it, one number after the other."""
    return stand_in if parameter is None else parameter.contiguous()


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are by name; strides are tuples. With `fuses` the compiler may
    round a product and a sum at once, as matrix products want it; other kernels say where."""

    kernel: JITFunction
    programs: int
    arguments: dict[str, Any]
    num_warps: int = tiles.NUM_WARPS
    fuses: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told beside the arguments."""
        return {"num_warps": self.num_warps, "enable_fp_fusion": self.fuses}

    def run(self) -> None:
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, **self.options)


def run(launches: list[Launch]) -> None:
    """Run launches on the device of the tensors that they are given."""
    if not launches:
        return
    tensors = (value for value in launches[0].arguments.values() if isinstance(value, Tensor))
    device = next(tensors).device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.run()
