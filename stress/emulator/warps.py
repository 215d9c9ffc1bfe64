"""What the threads of a warp, or of four, do together."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stress.emulator.accesses import addresses
from stress.emulator.machine import WARP, Machine, Step
from stress.emulator.memory import SharedMemory
from stress.emulator.parse import Instruction, PtxError, names_in
from stress.emulator.values import Array, from_bfloat16

_THREAD = np.arange(WARP)
#: In matrix units' fragments: the row of a thread, and its place in the row.
_ROW, _PLACE = _THREAD // 4, _THREAD % 4
_REDUCTIONS: dict[str, Any] = {"add": np.add, "max": np.maximum, "min": np.minimum}


def shuffle(machine: Machine, instruction: Instruction) -> Step:
    """shfl: each thread gets another's number."""
    mode = instruction.modifiers[1]
    name, source, by, _, _ = instruction.operands
    thread = np.arange(machine.count) % WARP
    first = np.arange(machine.count) - thread
    numbers, distance = machine.source(source, "b32"), machine.source(by, "u32")
    destination = machine.register(name)

    def run(mask: Array | None) -> None:
        by = machine.every(distance).astype(np.int64) % WARP
        other = {"bfly": thread ^ by, "idx": by, "up": thread - by, "down": thread + by}[mode]
        inside = (other >= 0) & (other < WARP)
        found = numbers[first + np.where(inside, other, thread)]
        np.copyto(destination, found, where=True if mask is None else mask)

    return run


def reduce(machine: Machine, instruction: Instruction) -> Step:
    """redux: over the threads that a set of bits names."""
    name, source, members = instruction.operands
    function = _REDUCTIONS[instruction.modifiers[1]]
    numbers, members_of = machine.source(source, instruction.kind), machine.source(members, "u32")
    destination = machine.register(name)

    def run(mask: Array | None) -> None:
        found = np.empty_like(numbers).reshape(-1, WARP)
        for warp, row, sets in zip(
            found,
            numbers.reshape(-1, WARP),
            machine.every(members_of).reshape(-1, WARP),
            strict=True,
        ):
            for bits in np.unique(sets):
                named = (int(bits) >> _THREAD) & 1 == 1
                warp[sets == bits] = function.reduce(row[named]) if named.any() else 0
        np.copyto(
            destination,
            found.reshape(-1).view(destination.dtype),
            where=True if mask is None else mask,
        )

    return run


def matrices(machine: Machine, instruction: Instruction) -> Step:
    """ldmatrix and stmatrix: 8 x 8 numbers of 16 bits, of whose rows each thread has two."""
    loads = instruction.name == "ldmatrix"
    names, operand = instruction.operands if loads else instruction.operands[::-1]
    registers = [machine.register(name) for name in names_in(names)]
    places = addresses(machine, operand, "shared")
    transposed = "trans" in instruction.modifiers

    def elements(rows: Array) -> list[Array]:
        """Of eight rows' addresses for each warp: where each thread's two numbers are."""
        at = machine.shared.place(rows, 16, 1) * 8
        if transposed:
            return [at[:, 2 * _PLACE + half] + _ROW for half in range(2)]
        return [at[:, _ROW] + 2 * _PLACE + half for half in range(2)]

    def run(mask: Array | None) -> None:
        on = (np.ones(machine.count, np.bool_) if mask is None else mask).reshape(-1, WARP)[:, 0]
        rows = places(mask).reshape(-1, WARP)
        halves = machine.shared.of_size[2]
        for index, register in enumerate(registers):
            first, second = elements(rows[:, 8 * index : 8 * index + 8])
            by_warp = register.reshape(-1, WARP)
            if loads:
                by_warp[on] = halves[first] | (halves[second].astype(np.uint32) << np.uint32(16))
            else:
                halves[first] = by_warp[on] & np.uint32(0xFFFF)
                halves[second] = by_warp[on] >> np.uint32(16)

    return run


def _factors(bits: Array, kind: str) -> list[Array]:
    """The numbers in a register that a matrix unit reads: float32 without the bits it ignores."""
    if kind == "f64":
        return [bits.view(np.float64)]
    if kind == "tf32":
        return [(bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)]
    halves = [
        (bits & np.uint32(0xFFFF)).astype(np.uint16),
        (bits >> np.uint32(16)).astype(np.uint16),
    ]
    if kind == "bf16":
        return [from_bfloat16(half).astype(np.float64) for half in halves]
    return [half.view(np.float16).astype(np.float64) for half in halves]


def multiply(machine: Machine, instruction: Instruction) -> Step:
    """mma: 16 x k times k x 8, of which each thread of a warp has some rows' and columns' numbers.
    Sums are rounded once."""
    depth = int(re.search(r"m16n8k(\d+)", instruction.text).group(1))
    *_, kind, _, total = instruction.modifiers
    results, left, right, added = map(names_in, instruction.operands)
    number: Any = np.float64 if total == "f64" else np.float32
    targets = [machine.register(name).view(number) for name in results]
    left_bits, right_bits = ([machine.register(name) for name in names] for names in (left, right))
    terms = [machine.source(name, total) for name in added]

    def fragments(registers: list[Array], tall: bool) -> Array:
        """(warps, 16, depth) of the left matrix, (warps, 8, depth) of the right one."""
        rows = 2 if tall else 1
        matrix = np.zeros((machine.count // WARP, 8 * rows, depth))
        for index, register in enumerate(registers):
            parts = _factors(register.reshape(-1, WARP), kind)
            for half, part in enumerate(parts):
                column = len(parts) * (_PLACE + 4 * (index // rows)) + half
                matrix[:, _ROW + 8 * (index % rows), column] = part
        return matrix

    def run(mask: Array | None) -> None:
        product = fragments(left_bits, True) @ fragments(right_bits, False).swapaxes(1, 2)
        for index, (target, term) in enumerate(zip(targets, terms, strict=True)):
            part = product[:, _ROW + 8 * (index // 2), 2 * _PLACE + index % 2].reshape(-1) + term
            np.copyto(target, part, where=True if mask is None else mask, casting="same_kind")

    return run


class _Described:
    """A matrix in shared memory as wgmma is told of it: rows in groups of 8, whose 16 bytes are
    swapped within 128, 64 or 32. `across` has the rows along the memory."""

    def __init__(self, bits: int, size: int, across: bool) -> None:
        self._start = (bits & 0x3FFF) << 4
        self._leading = ((bits >> 16) & 0x3FFF) << 4
        self._stride = ((bits >> 32) & 0x3FFF) << 4
        self._swapped = {0: 0, 1: 7, 2: 3, 3: 1}[bits >> 62]
        self._width = 16 * (self._swapped + 1)
        self._size, self._across = size, across

    def addresses(self, rows: int, columns: int) -> Array:
        """Of (rows, columns) numbers."""
        row, column = np.arange(rows)[:, None], np.arange(columns) * self._size
        if self._across:
            row, column = row * self._size, np.arange(columns)
            place = row // self._width * self._leading + row % self._width
            place = place + column // 8 * self._stride + column % 8 * self._width
        else:
            place = row // 8 * self._stride + row % 8 * self._width
            place = place + column // self._width * self._leading + column % self._width
        place = place + self._start
        return place ^ (((place >> 7) & self._swapped) << 4)


def multiply_by_four_warps(machine: Machine, instruction: Instruction) -> Step | None:
    """wgmma, done at once: 64 x k from registers or shared memory, times k x n from there."""
    if instruction.modifiers[0] in ("fence", "commit_group", "wait_group"):
        return None
    width, depth = map(int, re.search(r"m64n(\d+)k(\d+)", instruction.text).groups())
    kind = instruction.kind
    results, left, right, accumulates, *options = instruction.operands
    if options[:2] != ["1", "1"]:
        raise PtxError("expected no sign to be changed")
    # Of the left matrix, if it is in shared memory, and of the right one; none of float32.
    across = [False, False, *(option == "1" for option in options[2:])][-2:]
    targets = [machine.register(name).view(np.float32) for name in results.strip("{}").split(",")]
    left_bits = [machine.register(name) for name in names_in(left)]
    described = machine.register(right)
    keeps = machine.source(accumulates, "pred")
    size = 4 if kind == "tf32" else 2
    thread = np.arange(4 * WARP)
    row, place = 16 * (thread // WARP) + thread % WARP // 4, thread % 4

    def shared(bits: Any, program: int, rows: int, along: bool) -> Array:
        at = _Described(int(bits), size, along).addresses(rows, depth)
        at = at + program * SharedMemory.STRIDE
        found = machine.shared.of_size[size][machine.shared.place(at, size, 1)]
        return _factors(found.astype(np.uint32), kind)[0]

    def registers(chosen: slice) -> Array:
        matrix = np.zeros((64, depth))
        for index, bits in enumerate(left_bits):
            parts = _factors(bits[chosen], kind)
            for half, part in enumerate(parts):
                matrix[row + 8 * (index % 2), len(parts) * (place + 4 * (index // 2)) + half] = part
        return matrix

    def run(mask: Array | None) -> None:
        for first in range(0, machine.count, 4 * WARP):
            if mask is not None and not mask[first]:
                continue
            chosen, program = slice(first, first + 4 * WARP), int(machine.program_of_thread[first])
            if left.startswith("{"):
                factor = registers(chosen)
            else:
                factor = shared(left_bits[0][first], program, 64, across[0])
            product = factor @ shared(described[first], program, width, across[1]).T
            for index, target in enumerate(targets):
                part = product[row + 8 * (index % 4 // 2), 8 * (index // 4) + 2 * place + index % 2]
                total = target[chosen] if machine.every(keeps)[first] else np.float32(0)
                target[chosen] = part + total

    return run
