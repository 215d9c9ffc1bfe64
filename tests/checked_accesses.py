"""Every load and store of Triton's interpreter held to what a GPU asks of it.

The interpreter runs one program after the other, each an operation after the other. On a GPU
programs run at once, and so do the threads of one: what one of them stores, no other may load or
store in the same launch. A thread is known by its place in a block: a block may be stored where it
was loaded from, element by element.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from interpreted import Access, interprets, watch
from torch import Tensor

import milkernels

if TYPE_CHECKING:
    from milkernels.kernels.launch import Launch

_NEVER, _OFTEN = -1, -2


class RaceError(AssertionError):
    """What a kernel gives depends on the order of programs or threads."""


class Elements:
    """The elements of one size of a launch's tensors, and which are stored or loaded, by whom."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._addresses = np.unique(np.concatenate([addresses(tensor) for tensor in tensors]))
        self._stored = np.zeros(self._addresses.shape, bool)
        self._block = np.full(self._addresses.shape, _NEVER)  # the one that it was loaded with
        self._blocks: dict[tuple[int, bytes], int] = {}

    def places(self, touched: np.ndarray) -> tuple[np.ndarray, int]:
        """Where in these elements addresses are, and how many are not."""
        place = np.searchsorted(self._addresses, touched).clip(max=len(self._addresses) - 1)
        return place, np.count_nonzero(self._addresses[place] != touched)

    def load(self, place: np.ndarray, program: int) -> str | None:
        """What is wrong with it, if something is."""
        if self._stored[place].any():
            return "loads what this launch stores"
        block = self._number(place, program)
        others = ~np.isin(self._block[place], (_NEVER, block))
        self._block[place] = np.where(others, _OFTEN, block)
        return None

    def store(self, place: np.ndarray, program: int, stored: np.ndarray) -> str | None:
        """What is wrong with it, if something is."""
        if self._stored[place].any():
            return "stores twice"
        if not np.isin(self._block[place], (_NEVER, self._number(place, program))).all():
            return "stores what this launch loads"
        self._stored[place] = True
        distinct, first, which = np.unique(place, return_index=True, return_inverse=True)
        if len(distinct) < len(place) and stored.tobytes() != stored[first][which].tobytes():
            return "stores two values at once"
        return None

    def _number(self, place: np.ndarray, program: int) -> int:
        """A program's block of these elements in this order."""
        return self._blocks.setdefault((program, place.tobytes()), len(self._blocks))


class Check:
    """Lets a kernel touch the elements of its launch's tensors, at their addresses, and no other,
    and store none that another thread touches.

    What lies between the elements of a tensor with gaps is another's.

    Attributes:
        checked: addresses that were found good.
    """

    def __init__(self) -> None:
        self.checked = 0
        self._kernel = ""
        self._elements: dict[int, Elements] = {}

    def launch(self, launch: Launch) -> None:
        self._kernel = launch.kernel.__name__
        by_size: dict[int, list[Tensor]] = {}
        for value in launch.arguments.values():
            if isinstance(value, Tensor) and value.numel():
                by_size.setdefault(value.element_size(), []).append(value)
        self._elements = {size: Elements(tensors) for size, tensors in by_size.items()}

    def access(self, access: Access) -> None:
        count, size = access.addresses.size, access.element_bytes
        if not count:
            return
        elements = self._elements.get(size)
        place, outside = elements.places(access.addresses) if elements else (None, count)
        if outside:
            raise IndexError(
                f"{self._kernel}: {outside} of {count} addresses are no element of {size} bytes "
                "of the launch's tensors"
            )
        if access.stored is None:
            wrong = elements.load(place, access.program)
        else:
            wrong = elements.store(place, access.program, access.stored)
        if wrong is not None:
            raise RaceError(f"{self._kernel}: program {access.program} {wrong}")
        self.checked += count


def addresses(tensor: Tensor) -> np.ndarray:
    """The address of every element, flat: uint64."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    first = np.uint64(tensor.data_ptr())
    return first + (offsets * tensor.element_size()).flatten().numpy().astype(np.uint64)


@contextmanager
def checked_accesses() -> Iterator[Check]:
    """Every launch in here raises IndexError at the first address that is not its own, and
    RaceError at the first store that depends on an order."""
    check = Check()
    with watch(check.access, check.launch):
        yield check


@contextmanager
def checked_backend(name: str) -> Iterator[None]:
    """The backend of that name; in the interpreter with every access checked."""
    interpreted = name == "triton" and interprets()
    with milkernels.backend(name), checked_accesses() if interpreted else nullcontext():
        yield
