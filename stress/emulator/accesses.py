"""Loads, stores and copies."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from stress.emulator.machine import Machine, Step
from stress.emulator.memory import SharedMemory
from stress.emulator.parse import Instruction, PtxError, names_in
from stress.emulator.values import BITS, TYPES, Array, bytes_of, widen

_ADDRESS = re.compile(r"^\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]$")


def address(operand: str) -> tuple[str, int]:
    """Register and offset of `[register+offset]`."""
    found = _ADDRESS.match(operand)
    if found is None:
        raise PtxError(f"expected an address, got {operand}")
    return found.group(1), int(found.group(2) or 0)


def addresses(machine: Machine, operand: str, space: str) -> Callable[[Array | None], Array]:
    """The addresses of a mask's threads."""
    register, offset = address(operand)
    if space == "global":
        pointers = machine.source(register, "u64")
        further = np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
        return lambda mask: (pointers if mask is None else pointers[mask]) + further
    own = machine.program_of_thread * SharedMemory.STRIDE + offset
    places = machine.source(register, "s32")

    def shared(mask: Array | None) -> Array:
        place = machine.every(places).astype(np.int64)
        if ((place + offset)[... if mask is None else mask] < 0).any():
            raise PtxError("a negative shared address")
        return (own + place)[... if mask is None else mask]

    return shared


def _space(instruction: Instruction) -> str:
    return next(name for name in instruction.modifiers if name in ("param", "global", "shared"))


def load(machine: Machine, instruction: Instruction) -> Step:
    """ld: one number or a vector of them, from an address that the vector's size divides."""
    names, operand = instruction.operands
    kind = instruction.kind
    registers = [machine.register(name) for name in names_in(names)]
    if _space(instruction) == "param":
        return _parameter(machine, registers[0], operand.strip("[]"))
    memory_of = _space(instruction)
    places = addresses(machine, operand, memory_of)
    size = bytes_of(kind)

    def run(mask: Array | None) -> None:
        memory = machine.memory if memory_of == "global" else machine.shared
        for register, found in zip(
            registers, memory.load(places(mask), size, len(registers)), strict=True
        ):
            register[... if mask is None else mask] = widen(found.view(TYPES[kind]), register.dtype)

    return run


def _parameter(machine: Machine, register: Array, name: str) -> Step:
    def run(mask: Array | None) -> None:
        bits = machine.parameters[name] & int(np.iinfo(register.dtype).max)
        np.copyto(register, register.dtype.type(bits), where=True if mask is None else mask)

    return run


def store(machine: Machine, instruction: Instruction) -> Step:
    operand, names = instruction.operands
    memory_of, size = _space(instruction), bytes_of(instruction.kind)
    places = addresses(machine, operand, memory_of)
    sources = [machine.source(name, f"b{8 * size}") for name in names_in(names)]

    def run(mask: Array | None) -> None:
        memory = machine.memory if memory_of == "global" else machine.shared
        stored = [machine.every(source)[... if mask is None else mask] for source in sources]
        memory.store(places(mask), size, stored)

    return run


def copy(machine: Machine, instruction: Instruction) -> Step | None:
    """cp.async, done at once: from global to shared memory, or zeros if no byte is asked for."""
    if instruction.modifiers[1] in ("commit_group", "wait_group", "wait_all"):
        return None
    to, source, size, *asked = instruction.operands
    target = addresses(machine, to, "shared")
    origin = addresses(machine, source, "global")
    unit, count = (8, int(size, 0) // 8) if int(size, 0) >= 8 else (4, 1)
    wanted = machine.source(asked[0], "u32") if asked else np.uint32(int(size, 0))

    def run(mask: Array | None) -> None:
        given = machine.every(wanted)[... if mask is None else mask]
        if not np.isin(given, (0, int(size, 0))).all():
            raise PtxError("expected a whole copy or none")
        copied = [np.zeros(given.shape, BITS[unit]) for _ in range(count)]
        loaded = machine.memory.load(origin(mask)[given > 0], unit, count)
        for numbers, found in zip(copied, loaded, strict=True):
            numbers[given > 0] = found
        machine.shared.store(target(mask), unit, copied)

    return run
