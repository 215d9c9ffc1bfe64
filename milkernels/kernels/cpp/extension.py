"""The C++ extension, and what its functions expect of tensors.

Frame tensors are (bags, classes, frames) views of any strides; those contiguous along neither
classes nor frames are copied.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, overload

import torch
from torch import Tensor

# torch is imported first, above: the kernels run on the threads of its OpenMP runtime.
try:
    _loaded: ModuleType | None = import_module("milkernels._C")
    LOAD_ERROR: str | None = None
except ImportError as error:
    _loaded = None
    LOAD_ERROR = str(error)

#: The extension's functions; there only while `LOAD_ERROR` is None.
functions: Any = _loaded


def describe() -> dict[str, Any]:
    """What the extension was built with and runs on, or why it is missing."""
    if functions is None:
        return {"error": LOAD_ERROR}
    return {
        "compiler": functions.compiler,
        "openmp": functions.openmp,
        "usable_instruction_sets": functions.usable_instruction_sets(),
        "instruction_set": functions.chosen_instruction_set(),
        "threads": torch.get_num_threads(),
    }


def arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def bag_values(x: Tensor) -> Tensor:
    """An empty (bags, classes) in x's dtype."""
    shape = x.shape
    return x.new_empty(shape[0], shape[1])


def bag_rows(x: Tensor, rows: int) -> Tensor:
    """An empty (rows, bags, classes) in the dtype that x is computed in."""
    shape, dtype = x.shape, arithmetic(x)
    if dtype == x.dtype:
        return x.new_empty(rows, shape[0], shape[1])
    return x.new_empty((rows, shape[0], shape[1]), dtype=dtype)


def lane_axis(x: Tensor) -> int:
    """The axis that vectors run along: 2 for frames, 1 for classes."""
    _, of_class, of_frame = x.stride()
    return 1 if of_class == 1 and of_frame != 1 else 2


@overload
def along(tensor: Tensor, axis: int) -> Tensor: ...
@overload
def along(tensor: Tensor | None, axis: int) -> Tensor | None: ...
def along(tensor: Tensor | None, axis: int) -> Tensor | None:
    """The tensor, or a copy contiguous along `axis`."""
    if tensor is None or tensor.stride(axis) == 1 or tensor.shape[axis] <= 1:
        return tensor
    return empty_along(tensor, axis).copy_(tensor)


@overload
def empty_along(tensor: Tensor, axis: int) -> Tensor: ...
@overload
def empty_along(tensor: Tensor | None, axis: int) -> Tensor | None: ...
def empty_along(tensor: Tensor | None, axis: int) -> Tensor | None:
    """The tensor, or an empty one like it that is contiguous along `axis`."""
    if tensor is None or tensor.stride(axis) == 1 or tensor.shape[axis] <= 1:
        return tensor
    bags, classes, frames = tensor.shape
    if axis == 2:
        return tensor.new_empty((bags, classes, frames))
    return tensor.new_empty((bags, frames, classes)).transpose(1, 2)


@overload
def in_arithmetic(parameter: Tensor, x: Tensor) -> Tensor: ...
@overload
def in_arithmetic(parameter: Tensor | None, x: Tensor) -> Tensor | None: ...
def in_arithmetic(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(arithmetic(x)).contiguous()


def empty_in_arithmetic(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    if parameter is None or (parameter.dtype == arithmetic(x) and parameter.is_contiguous()):
        return parameter
    return torch.empty(parameter.shape, dtype=arithmetic(x))


def hand_over(filled: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> None:
    """Copy what the kernel could not write in place."""
    for source, target in zip(filled, given, strict=True):
        if source is not None and target is not None and source is not target:
            target.copy_(source)


def walk(axis: int) -> tuple[int, int]:
    """The axis that vectors run along, and how many threads there are."""
    return axis, torch.get_num_threads()
