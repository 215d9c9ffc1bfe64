"""A kernel with its grid and arguments: run here, or compiled for a GPU that is not here."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
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


def float32_parts(number: float) -> tuple[float, ...]:
    """A number in three parts: what Triton passes to a kernel is rounded to float32."""
    parts = []
    for _ in range(3):
        parts.append(struct.unpack("f", struct.pack("f", number))[0])
        number -= parts[-1]
    return tuple(parts)


#: Threads of a warp as `Launch` counts them.
_WARP_THREADS = 32

#: Where kernels are interpreted.
_NO_GPU = GPUTarget("cpu", 0, _WARP_THREADS)


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are by name; strides are tuples. A warp has 32 threads here,
    whatever the GPU's have. NVIDIA's assembler would rather spill than give a thread many
    registers, unless `registers` says how many it may have. With `fuses` the compiler may round a
    product and a sum at once, as matrix products want it; other kernels say where. Matrix
    units differ: `others` says what NVIDIA's generations launch, by the major number of their
    compute capability, where it is not this."""

    kernel: JITFunction
    programs: int
    arguments: dict[str, Any]
    num_warps: int = tiles.NUM_WARPS
    registers: int | None = None
    fuses: bool = False
    others: Mapping[int, Launch] = field(default_factory=dict)

    def on(self, target: GPUTarget) -> Launch:
        """What is launched on such a GPU."""
        return self.others.get(target.arch // 10, self) if target.backend == "cuda" else self

    def options(self, target: GPUTarget) -> dict[str, Any]:
        """What the compiler is told beside the arguments."""
        warps = max(self.num_warps * _WARP_THREADS // target.warp_size, 1)
        options: dict[str, Any] = {"num_warps": warps, "enable_fp_fusion": self.fuses}
        if self.registers is not None and target.backend == "cuda":
            options["maxnreg"] = self.registers
        return options

    @property
    def device(self) -> torch.device:
        return next(value.device for value in self.arguments.values() if isinstance(value, Tensor))

    def run(self) -> None:
        """On the current device, which is its tensors'."""
        if not self.programs:
            return
        target = _target_of(self.device)
        launch = self.on(target)
        launch.kernel[(launch.programs,)](**launch.arguments, **launch.options(target))


def run(launches: list[Launch]) -> None:
    """Run launches on the device of the tensors that they are given."""
    if not launches:
        return
    device = launches[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.run()


@cache
def shared_memory(device: torch.device) -> int | None:
    """Bytes that a program may have of an NVIDIA GPU's; None elsewhere."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(driver.active.utils.get_device_properties(index)["max_shared_mem"])


@cache
def _target_of(device: torch.device) -> GPUTarget:
    """What kernels are compiled for, on the current device."""
    return driver.active.get_current_target() if device.type == "cuda" else _NO_GPU
