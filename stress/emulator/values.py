"""Numbers as PTX has them: bits in registers, read as the type that an instruction names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TYPES: dict[str, Any] = {
    "pred": np.bool_,
    **{f"{letter}8": np.uint8 for letter in "bu"},
    **{f"{letter}16": np.uint16 for letter in "bu"},
    **{f"{letter}32": np.uint32 for letter in "bu"},
    **{f"{letter}64": np.uint64 for letter in "bu"},
    "s8": np.int8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
}
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}

#: Parts of a register that numpy has no type for, and their bytes together.
PACKED = {"bf16": 2, "f16": 2, "bf16x2": 4, "f16x2": 4, "f32x2": 8}

_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


def bytes_of(kind: str) -> int:
    """Of one number."""
    if kind in PACKED:
        return PACKED[kind]
    return int(np.dtype(TYPES[kind]).itemsize)


def literal(text: str, kind: str) -> Any:
    """A number written in PTX, where floats may be their bits."""
    of_bits = text[:2].lower() in ("0f", "0d")
    number = int(text[2:], 16) if of_bits else int(text.rstrip("U"), 0)
    if kind == "pred":
        return np.bool_(number != 0)
    size = bytes_of(kind)
    bits = np.array([number & ((1 << 8 * size) - 1)], BITS[size])
    return bits.view(TYPES.get(kind, BITS[size]))[0]


def widen(numbers: Array, bits: Any) -> Array:
    """Integers as the bits of a wider register."""
    size = np.dtype(bits).itemsize
    if numbers.dtype.itemsize == size:
        return numbers.view(bits)
    wide = _SIGNED[size] if numbers.dtype.kind == "i" else bits
    return numbers.astype(wide).view(bits)


def flush(numbers: Array) -> Array:
    """What is smaller than a normal float32 as 0 of its sign."""
    numbers = np.asarray(numbers)
    return np.where(
        np.abs(numbers) < _SMALLEST_NORMAL, np.copysign(numbers.dtype.type(0), numbers), numbers
    )


def from_bfloat16(bits: Array) -> Array:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(numbers: Array) -> Array:
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return np.where(np.isnan(numbers), np.uint16(0x7FFF), rounded.astype(np.uint16))


def unpack(bits: Array, kind: str) -> list[Array]:
    """The float32 of the one number or the two in a register, the lower first."""
    if kind.endswith("x2"):
        part = BITS[PACKED[kind] // 2]
        columns = np.ascontiguousarray(bits).view(part).reshape(*bits.shape, 2)
        parts = [np.ascontiguousarray(columns[..., index]) for index in range(2)]
    else:
        parts = [np.ascontiguousarray(bits).view(np.uint16)]
    if kind.startswith("bf16"):
        return [from_bfloat16(part) for part in parts]
    number = np.float32 if kind == "f32x2" else np.float16
    return [part.view(number).astype(np.float32) for part in parts]


def pack(numbers: list[Array], kind: str) -> Array:
    """The bits of a register of one number or two, rounded to it."""
    if kind.startswith("bf16"):
        parts = [to_bfloat16(number) for number in numbers]
    elif kind == "f32x2":
        parts = [number.astype(np.float32).view(np.uint32) for number in numbers]
    else:
        parts = [number.astype(np.float16).view(np.uint16) for number in numbers]
    if len(parts) == 1:
        return parts[0]
    return np.stack(parts, axis=-1).view(BITS[PACKED[kind]])[..., 0]


def to_integers(numbers: Array, kind: str, rounding: Callable[[Array], Array]) -> Array:
    """Rounded; beyond the type's range its end, and 0 of NaN."""
    limits = np.iinfo(TYPES[kind])
    rounded = rounding(numbers.astype(np.float64))
    inside = (rounded >= limits.min) & (rounded < limits.max)
    whole = np.where(inside, rounded, 0).astype(TYPES[kind])
    ends = np.where(rounded >= limits.max, limits.max, limits.min)
    return np.where(inside | np.isnan(rounded), whole, ends).astype(TYPES[kind])


def fused32(x: Array, y: Array, z: Array) -> Array:
    """Product and sum rounded once, but where float64 rounds the sum to a tie of float32."""
    return (np.asarray(x).astype(np.float64) * y + z).astype(np.float32)


def fused64(x: Array, y: Array, z: Array) -> Array:
    """Product and sum rounded once: Dekker's product and Knuth's sum keep what rounding loses."""
    product = x * y
    (upper_x, lower_x), (upper_y, lower_y) = _split(x), _split(y)
    lost = (
        (upper_x * upper_y - product) + upper_x * lower_y + lower_x * upper_y
    ) + lower_x * lower_y
    total = product + z
    added = total - product
    lost = lost + ((product - (total - added)) + (z - added))
    exact = total + lost
    return np.where(np.isfinite(exact), exact, total)


def _split(x: Array) -> tuple[Array, Array]:
    scaled = x * 134217729.0
    upper = scaled - (scaled - x)
    return upper, x - upper


class Approximations:
    """The instructions that NVIDIA documents a largest error of, not a result.

    Args:
        share: of that error, how far off results are, the same for the same operands; 0 for the
            nearest float32.
    """

    def __init__(self, share: float) -> None:
        self._share = share

    def power_of_2(self, x: Array) -> Array:
        """Within 2 units in the last place; exact of whole numbers."""
        exact = np.exp2(x.astype(np.float64))
        return np.where(x == np.floor(x), exact.astype(np.float32), self._near(exact, 1.5, x))

    def logarithm_of_2(self, x: Array) -> Array:
        """Within 2^-22, relative to the result but near 1."""
        exact = np.log2(x.astype(np.float64))
        error = self._share * _scatter(x) * 2.0**-22
        off = np.where((x > 0.5) & (x < 2.0), error * (x != 1), error * exact)
        return np.where(np.isfinite(exact), exact + off, exact).astype(np.float32)

    def quotient(self, x: Array, y: Array) -> Array:
        """Within 2 units in the last place."""
        return self._near(x.astype(np.float64) / y, 3.0, x, y)

    def reciprocal(self, x: Array) -> Array:
        """Within 1 unit in the last place."""
        return self._near(1 / x.astype(np.float64), 1.0, x)

    def square_root(self, x: Array) -> Array:
        """Within 1 unit in the last place."""
        return self._near(np.sqrt(x.astype(np.float64)), 1.0, x)

    def reciprocal_square_root(self, x: Array) -> Array:
        """Within 2 units in the last place."""
        return self._near(1 / np.sqrt(x.astype(np.float64)), 2.0, x)

    def _near(self, exact: Array, roundings: float, *operands: Array) -> Array:
        """Off by up to so many roundings of float32 before its own."""
        error = self._share * _scatter(*operands) * roundings * 2.0**-24
        return (exact * (1 + error)).astype(np.float32)


def _scatter(*operands: Array) -> Array:
    """A number in [-1, 1] for each combination of operands."""
    mixed = np.zeros((), np.uint64)
    for operand in operands:
        bits = np.ascontiguousarray(operand).view(np.uint32).astype(np.uint64)
        mixed = (mixed * np.uint64(31) + bits) * np.uint64(0x9E3779B97F4A7C15)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return (mixed & np.uint64(0xFFFFFF)).astype(np.float64) / 2.0**23 - 1
