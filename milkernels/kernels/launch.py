"""A kernel with its grid and arguments: run here, or compiled for a GPU that is not here."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from milkernels.kernels import tiles


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are by name; strides are tuples."""

    kernel: JITFunction
    programs: int
    arguments: dict[str, Any]
    num_warps: int = tiles.NUM_WARPS

    def run(self) -> None:
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, num_warps=self.num_warps)


def run(launches: list[Launch]) -> None:
    """Run launches on the device of the tensors that they are given."""
    if not launches:
        return
    tensors = (value for value in launches[0].arguments.values() if isinstance(value, Tensor))
    device = next(tensors).device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.run()
