"""The memory that threads see: a launch's tensors, where they are, and a program's shared one."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod

import numpy as np

from stress.emulator.parse import PtxError
from stress.emulator.values import BITS, Array

#: What memory holds before it is written.
POISON = 0xA5

_FIRST = 1 << 16
_BYTES = np.ctypeslib.as_array((ctypes.c_uint8 * ((1 << 47) - 2 * _FIRST)).from_address(_FIRST))
_GLOBAL = {size: _BYTES.view(bits) for size, bits in BITS.items()}


class Memory(ABC):
    """Numbers at addresses; `of_size` has them by their bytes."""

    of_size: dict[int, Array]

    @abstractmethod
    def place(self, addresses: Array, size: int, count: int) -> Array:
        """Where in `of_size` the `count` numbers of each address begin.

        Raises:
            PtxError: if an address is not aligned to all of them, or they are not the threads'.
        """

    def load(self, addresses: Array, size: int, count: int) -> list[Array]:
        """`count` numbers of `size` bytes from each address."""
        place = self.place(addresses, size, count)
        return [self.of_size[size][place + index] for index in range(count)]

    def store(self, addresses: Array, size: int, numbers: list[Array]) -> None:
        place = self.place(addresses, size, len(numbers))
        for index, stored in enumerate(numbers):
            self.of_size[size][place + index] = stored


class GlobalMemory(Memory):
    """The process's own, of which only spans may be touched.

    Args:
        spans: first address and the one after the last, of each tensor.
    """

    of_size = _GLOBAL

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        ordered = sorted(spans)
        self._firsts = np.array([first for first, _ in ordered], np.uint64)
        ends = np.array([end for _, end in ordered], np.uint64)
        self._ends = np.maximum.accumulate(ends) if len(ends) else ends

    def place(self, addresses: Array, size: int, count: int) -> Array:
        reach = np.uint64(size * count)
        if (addresses % reach).any():
            raise PtxError(f"an address is no multiple of the {reach} bytes that are accessed")
        if addresses.size:
            span = np.searchsorted(self._firsts, addresses, side="right") - 1
            outside = (span < 0) | (addresses + reach > self._ends[np.maximum(span, 0)])
            if outside.any():
                raise PtxError(f"{np.count_nonzero(outside)} accesses are of no tensor")
        return ((addresses - np.uint64(_FIRST)) // np.uint64(size)).astype(np.int64)


class SharedMemory(Memory):
    """That of some programs, of which each may have `limit` bytes. Addresses count from the first
    program's."""

    STRIDE = 1 << 18

    def __init__(self, programs: int) -> None:
        self._bytes = np.empty(programs * self.STRIDE, np.uint8)
        self.of_size = {size: self._bytes.view(bits) for size, bits in BITS.items()}
        self.limit = self.STRIDE

    def clear(self, limit: int) -> None:
        self._bytes[...] = POISON
        self.limit = limit

    def place(self, addresses: Array, size: int, count: int) -> Array:
        reach = size * count
        if (addresses % reach).any():
            raise PtxError(f"a shared address is no multiple of the {reach} bytes accessed")
        if addresses.size and (addresses % self.STRIDE).max() + reach > self.limit:
            raise PtxError(f"an access beyond the program's {self.limit} bytes of shared memory")
        return addresses // size
