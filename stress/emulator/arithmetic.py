"""What a thread does by itself with numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stress.emulator.machine import Machine, Step
from stress.emulator.parse import Instruction, PtxError, names_in
from stress.emulator.values import (
    BITS,
    PACKED,
    TYPES,
    Array,
    bytes_of,
    flush,
    from_bfloat16,
    fused32,
    fused64,
    pack,
    to_bfloat16,
    to_integers,
    unpack,
    widen,
)

_ROUNDINGS = {"rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc, "rni": np.rint}
_WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: (x < y) | (x > y),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "equ": lambda x, y: ~((x < y) | (x > y)),
    "neu": lambda x, y: x != y,
    "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y),
    "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "num": lambda x, y: ~(np.isnan(x) | np.isnan(y)),
    "nan": lambda x, y: np.isnan(x) | np.isnan(y),
}


def writes(destination: Array, result: Callable[[], Any]) -> Step:
    """A step that writes what `result` gives."""

    def run(mask: Array | None) -> None:
        np.copyto(destination, result(), where=True if mask is None else mask, casting="unsafe")

    return run


def _function(instruction: Instruction) -> Callable[..., Any]:
    """Of the operands' numbers, for instructions that are no more than that."""
    name, kind, modifiers = instruction.name, instruction.kind, instruction.modifiers
    if name in ("max", "min") and kind.startswith(("f", "bf")):
        keeps_nan = {"max": np.maximum, "min": np.minimum}
        two = (keeps_nan if "NaN" in modifiers else {"max": np.fmax, "min": np.fmin})[name]
        return lambda x, *more: two(x, more[0]) if len(more) == 1 else two(two(x, more[0]), more[1])
    if name == "fma":
        return fused64 if kind == "f64" else fused32
    if name == "mul" and "hi" in modifiers:
        wide = TYPES[_WIDER[kind]]
        half = wide(8 * bytes_of(kind))
        return lambda x, y: (np.asarray(x).astype(wide) * np.asarray(y).astype(wide)) >> half
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    raise PtxError("expected an instruction that is emulated")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "mov": lambda x: x,
    "cvta": lambda x: x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "mad": lambda x, y, z: x * y + z,
    "max": np.maximum,
    "min": np.minimum,
    "abs": np.abs,
    "neg": lambda x: -x,
    "not": np.invert,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "popc": np.bitwise_count,
    "sqrt": np.sqrt,
    "rcp": lambda x: 1 / x,
}


def simple(machine: Machine, instruction: Instruction) -> Step:
    """A function of numbers of one type."""
    name, *operands = instruction.operands
    kind, function = instruction.kind, _function(instruction)
    if instruction.modifiers[-2:-1] == ("f32",):
        return _mixed(machine, instruction, function)
    if kind in PACKED:
        return _packed(machine, instruction, function)
    sources = [machine.source(operand, kind) for operand in operands]
    if "ftz" in instruction.modifiers:
        return writes(
            machine.register(name).view(TYPES[kind]),
            lambda: flush(function(*map(flush, sources))),
        )
    return writes(_destination(machine, name, kind), lambda: function(*sources))


def _destination(machine: Machine, name: str, kind: str) -> Array:
    register = machine.register(name)
    return register if register.dtype == np.bool_ else register.view(TYPES[kind])


def _packed(machine: Machine, instruction: Instruction, function: Callable[..., Any]) -> Step:
    name, *operands = instruction.operands
    kind = instruction.kind
    sources = [machine.source(operand, kind) for operand in operands]

    def result() -> Array:
        halves = zip(*(unpack(machine.every(source), kind) for source in sources), strict=True)
        return pack([np.asarray(function(*numbers)) for numbers in halves], kind)

    return writes(machine.register(name), result)


def _mixed(machine: Machine, instruction: Instruction, function: Callable[..., Any]) -> Step:
    """Of float32, whose operands but the last are halves."""
    name, *halves, last = instruction.operands
    narrow = [machine.source(operand, instruction.kind) for operand in halves]
    wide = machine.source(last, "f32")

    def result() -> Array:
        numbers = [unpack(machine.every(source), instruction.kind)[0] for source in narrow]
        return np.asarray(function(*numbers, wide))

    return writes(machine.register(name).view(np.float32), result)


def widening(machine: Machine, instruction: Instruction) -> Step:
    """mul.wide and mad.wide."""
    name, x, y, *added = instruction.operands
    wide = _WIDER[instruction.kind]
    factors = [machine.source(operand, instruction.kind) for operand in (x, y)]
    terms = [machine.source(operand, wide) for operand in added]

    def result() -> Any:
        product = np.prod(
            [np.asarray(f).astype(TYPES[wide]) for f in np.broadcast_arrays(*factors)], axis=0
        )
        return product + terms[0] if terms else product

    return writes(_destination(machine, name, wide), result)


def multiply(machine: Machine, instruction: Instruction) -> Step:
    wide = "wide" in instruction.modifiers
    return widening(machine, instruction) if wide else simple(machine, instruction)


def approximate(machine: Machine, instruction: Instruction) -> Step:
    """What a GPU approximates, if it is told so; else rounded to the nearest."""
    name, *operands = instruction.operands
    kind, modifiers = instruction.kind, instruction.modifiers
    if kind == "f64" and instruction.name == "rcp" and "approx" in modifiers:
        (x,) = (machine.source(operand, kind) for operand in operands)
        upper = np.uint64(0xFFFFFFFF00000000)
        return writes(machine.register(name), lambda: (1 / x).view(np.uint64) & upper)
    if "approx" not in modifiers and "full" not in modifiers:
        return simple(machine, instruction) if len(operands) == 1 else divide(machine, instruction)
    near = machine.approximations
    function = {
        "ex2": near.power_of_2,
        "lg2": near.logarithm_of_2,
        "div": near.quotient,
        "rcp": near.reciprocal,
        "sqrt": near.square_root,
        "rsqrt": near.reciprocal_square_root,
    }[instruction.name]
    sources = [machine.source(operand, kind) for operand in operands]
    flushed = flush if "ftz" in modifiers else np.asarray

    def result() -> Array:
        numbers = np.broadcast_arrays(*map(flushed, sources))
        found = flushed(function(*numbers))
        if instruction.name == "div" and "approx" in modifiers:
            # The divisor's reciprocal is no normal number.
            huge = np.isfinite(numbers[1]) & (np.abs(numbers[1]) > np.float32(2.0**126))
            found = np.where(
                huge & np.isfinite(numbers[0]), np.copysign(np.float32(0), found), found
            )
        return found

    return writes(machine.register(name).view(TYPES[kind]), result)


def divide(machine: Machine, instruction: Instruction) -> Step:
    """div and rem: whole numbers towards 0, and any number for a divisor that is 0."""
    name, *operands = instruction.operands
    kind = instruction.kind
    x, y = (machine.source(operand, kind) for operand in operands)
    destination = machine.register(name).view(TYPES[kind])
    if kind.startswith("f"):
        return writes(destination, lambda: x / y)

    def result() -> Array:
        divisor = np.where(y == 0, TYPES[kind](1), y)
        rest = np.fmod(x, divisor)
        return rest if instruction.name == "rem" else (x - rest) // divisor

    return writes(destination, result)


def shift(machine: Machine, instruction: Instruction) -> Step:
    """By as many bits as there are or more, 0, or the sign."""
    name, shifted, by = instruction.operands
    kind = instruction.kind
    bits = 8 * bytes_of(kind)
    x, distance = machine.source(shifted, kind), machine.source(by, "u32")
    function = np.left_shift if instruction.name == "shl" else np.right_shift

    def result() -> Array:
        moved = function(x, np.minimum(distance, bits - 1).astype(TYPES[kind]))
        signed = kind.startswith("s") and instruction.name == "shr"
        return moved if signed else np.where(distance >= bits, TYPES[kind](0), moved)

    return writes(machine.register(name).view(TYPES[kind]), result)


def extract_bits(machine: Machine, instruction: Instruction) -> Step:
    """bfe, whose places are constants in what Triton writes."""
    name, operand, first, count = instruction.operands
    number = TYPES[instruction.kind]
    above = number(8 * bytes_of(instruction.kind) - int(first) - int(count))
    below = number(above + number(int(first)))
    x = machine.source(operand, instruction.kind)
    return writes(machine.register(name).view(number), lambda: (x << above) >> below)


def permute_bytes(machine: Machine, instruction: Instruction) -> Step:
    """prmt: a selector's digits name bytes of two registers, or with 8 added their sign."""
    name, *operands = instruction.operands
    low, high, selector = (machine.source(operand, "b32") for operand in operands)

    def result() -> Array:
        both = np.asarray(low).astype(np.uint64) | (
            np.asarray(high).astype(np.uint64) << np.uint64(32)
        )
        found = np.zeros(machine.count, np.uint64)
        for index in range(4):
            digit = (np.asarray(selector).astype(np.uint64) >> np.uint64(4 * index)) & np.uint64(15)
            byte = (both >> ((digit & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            found |= np.where(digit & np.uint64(8), sign, byte) << np.uint64(8 * index)
        return found.astype(np.uint32)

    return writes(machine.register(name), result)


def select(machine: Machine, instruction: Instruction) -> Step:
    name, x, y, condition = instruction.operands
    chosen = machine.source(condition, "pred")
    sources = [machine.source(operand, instruction.kind) for operand in (x, y)]
    return writes(_destination(machine, name, instruction.kind), lambda: np.where(chosen, *sources))


def compare(machine: Machine, instruction: Instruction) -> Step:
    """setp: with a second predicate of packed halves, or combined with one."""
    names, x, y, *combined = instruction.operands
    kind, modifiers = instruction.kind, instruction.modifiers
    comparison = _COMPARISONS[modifiers[0]]
    sources = [machine.source(operand, kind) for operand in (x, y)]
    destinations = [machine.register(name) for name in names.split("|")]

    def results() -> list[Array]:
        if kind in PACKED:
            pairs = zip(*(unpack(machine.every(source), kind) for source in sources), strict=True)
            return [comparison(*pair) for pair in pairs]
        found = comparison(*(map(flush, sources) if "ftz" in modifiers else sources))
        if not combined:
            return [found]
        join = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[modifiers[1]]
        other = machine.source(combined[0].lstrip("!"), "pred")
        return [join(found, ~other if combined[0].startswith("!") else other)]

    def run(mask: Array | None) -> None:
        for destination, found in zip(destinations, results(), strict=True):
            np.copyto(destination, found, where=True if mask is None else mask)

    return run


def move(machine: Machine, instruction: Instruction) -> Step:
    """mov, also of a register to its parts and back."""
    name, operand = instruction.operands
    kind = instruction.kind
    if name.startswith("{"):
        parts = [machine.register(part) for part in names_in(name)]
        whole = machine.source(operand, kind)
        bits = BITS[bytes_of(kind) // len(parts)]

        def run(mask: Array | None) -> None:
            columns = np.ascontiguousarray(machine.every(whole)).view(bits).reshape(-1, len(parts))
            for index, part in enumerate(parts):
                np.copyto(part, columns[:, index].copy(), where=True if mask is None else mask)

        return run
    if operand.startswith("{"):
        names = names_in(operand)
        size = bytes_of(kind) // len(names)
        sources = [machine.source(part, f"b{8 * size}") for part in names]

        def result() -> Array:
            columns = np.stack([machine.every(source) for source in sources], axis=-1)
            return np.ascontiguousarray(columns).view(BITS[bytes_of(kind)])[:, 0]

        return writes(machine.register(name), result)
    return simple(machine, instruction)


def convert(machine: Machine, instruction: Instruction) -> Step:
    """cvt: floats to the nearest, or as the instruction says; whole numbers cut off."""
    name, *operands = instruction.operands
    *modifiers, to, source_kind = instruction.modifiers
    destination = machine.register(name)
    sources = [machine.source(operand, source_kind) for operand in operands]
    if to.endswith("x2"):
        # The first operand is the upper half.
        return writes(
            destination, lambda: pack([machine.every(source) for source in sources[::-1]], to)
        )
    if to == "tf32":
        tie, kept = np.uint32(0x1000), np.uint32(0xFFFFE000)
        bits = machine.source(operands[0], "b32")
        return writes(destination, lambda: (bits + tie) & kept)
    rounding = next((_ROUNDINGS[name] for name in modifiers if name in _ROUNDINGS), None)

    def result() -> Array:
        numbers = np.asarray(sources[0])
        if source_kind == "bf16":
            numbers = from_bfloat16(numbers)
        if "ftz" in modifiers and numbers.dtype == np.float32:
            numbers = flush(numbers)
        if to == "bf16":
            return to_bfloat16(numbers)
        if to.startswith("f"):
            return (numbers if rounding is None else rounding(numbers)).astype(TYPES[to])
        if numbers.dtype.kind == "f":
            return to_integers(numbers, to, rounding)
        return numbers.astype(TYPES[to])

    if destination.dtype.itemsize > bytes_of(to):
        return writes(destination, lambda: widen(result(), destination.dtype))
    return writes(destination.view(TYPES.get(to, np.uint16)), result)
