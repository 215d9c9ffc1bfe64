"""Launches that are compiled for a GPU and executed here, on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor
from triton.compiler import CompiledKernel

from milkernels import backends
from milkernels.kernels import compile as compiling
from milkernels.kernels import linear_attention
from milkernels.kernels.launch import Launch
from stress.emulator.machine import WARP, Machine
from stress.emulator.memory import GlobalMemory
from stress.emulator.parse import parse
from stress.emulator.steps import step_of
from stress.emulator.values import Approximations

#: Bytes that a program may have of the shared memory of a GPU of each generation.
SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}

#: Threads that run at a time: more take longer than they save.
_AT_ONCE = 4096
_MACHINES = 64


@dataclass
class Emulator:
    """Executes launches as a GPU of a generation would.

    Args:
        target: one of `SHARED_MEMORY`.
        share: of the largest errors that NVIDIA documents of approximations, how far off they are.
    """

    target: str
    share: float = 0.0
    launched: int = 0
    _machines: dict[tuple[str, int, int], Machine] = field(default_factory=dict)

    def run(self, launch: Launch) -> None:
        """Compile and execute."""
        if not launch.programs:
            return
        target = compiling.TARGETS[self.target]
        launch = launch.on(target)
        compiled = compiling.compile_launch(launch, self.target)
        machine = self._machine(
            compiled, launch.options(target)["num_warps"] * WARP, launch.programs
        )
        values = list(_values(launch))
        given = [_bits(value) for value in values]
        # Memory for what Triton would write beside the tensors, of which there is none.
        given += [0] * (len(machine.program.parameters) - len(given))
        tensors = (value for value in values if isinstance(value, Tensor) and value.numel())
        memory = GlobalMemory([_span(tensor) for tensor in tensors])
        machine.run(launch.programs, given, memory, compiled.metadata.shared)
        self.launched += 1

    def _machine(self, compiled: CompiledKernel, threads: int, programs: int) -> Machine:
        at_once = 1
        while at_once < programs and at_once * threads < _AT_ONCE:
            at_once *= 2
        key = (compiled.asm["ptx"], threads, at_once)
        if key not in self._machines:
            if len(self._machines) == _MACHINES:
                del self._machines[next(iter(self._machines))]
            near = Approximations(self.share)
            self._machines[key] = Machine(parse(key[0]), threads, at_once, step_of, near)
        return self._machines[key]


@contextmanager
def emulated(emulator: Emulator) -> Iterator[Emulator]:
    """Let the Triton backend serve CPU tensors, by this emulator. Triton's own interpreter must be
    off."""
    memory = SHARED_MEMORY[emulator.target]

    def run(launch: Launch) -> None:
        emulator.run(launch)

    with (
        patch.object(backends, "_interprets", lambda: True),
        patch.object(Launch, "run", run),
        patch.object(linear_attention, "shared_memory", lambda _: memory),
    ):
        yield emulator


def _values(launch: Launch) -> Iterator[Any]:
    """The arguments that a kernel is given when it is launched, in its order."""
    found = compiling.Specialisation.of(launch)
    for parameter in launch.kernel.params:
        if not parameter.is_constexpr:
            yield from _flat(launch.arguments[parameter.name], found.signature[parameter.name])


def _flat(value: Any, kind: Any) -> Iterator[Any]:
    """Without what is a constant to the compiler."""
    if isinstance(kind, tuple):
        for item, its_kind in zip(value, kind, strict=True):
            yield from _flat(item, its_kind)
    elif kind != "constexpr":
        yield value


def _bits(value: Any) -> int:
    """What a kernel is given of an argument."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value


def _span(tensor: Tensor) -> tuple[int, int]:
    """Addresses of a tensor's first element and behind its last."""
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
