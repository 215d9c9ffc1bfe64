"""What Triton's interpreter launches, loads and stores, shown to who asks, and a check of it.

In the interpreter every load and store of every form passes through the two methods watched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import milkernels

if TYPE_CHECKING:
    from milkernels.kernels.launch import Launch

#: Called with the pointers and the mask of a load or store before it is done.
Access = Callable[[Any, Any], None]


def _fused(_: Any, x: Any, y: Any, z: Any) -> Any:
    """Product and sum of float32, rounded once as on a GPU, where the interpreter rounds twice."""
    exact = x.data.astype(np.float64) * y.data + z.data
    return type(x)(exact.astype(z.data.dtype), z.dtype.scalar)


@cache
def patch_the_interpreter() -> None:
    """Let it multiply and add as a GPU does. And it looks through its whole language at every call
    of a device function, a third of the tests' time: let it do so once a launch for each set of
    modules to patch."""
    from triton.runtime import interpreter  # noqa: PLC0415

    from milkernels.kernels import noisy_or_frames  # noqa: PLC0415

    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    language = (interpreter.tl, interpreter.tl.core)
    patched: set[tuple[str, ...]] = set()

    @cache
    def modules_of(function):
        values = list(function.__globals__.values())
        return tuple(module.__name__ for module in language if any(module is v for v in values))

    def patch_once(function):
        modules = modules_of(function)
        if modules in patched:
            return interpreter._LangPatchScope()
        patched.add(modules)
        return patch(function)

    def launch_afresh(executor, *args, **keywords):
        patched.clear()
        return launch(executor, *args, **keywords)

    interpreter.InterpreterBuilder.create_fma = _fused
    noisy_or_frames.FUSES = interpreter.tl.constexpr(True)
    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = launch_afresh


@contextmanager
def watch(access: Access, launch: Callable[[Launch], None]) -> Iterator[None]:
    """Call `launch` before each launch, and `access` before each of its loads and stores."""
    # Triton is loaded by those who use it alone, and not on a GPU.
    from triton.runtime.interpreter import InterpreterBuilder  # noqa: PLC0415

    from milkernels.kernels.launch import Launch  # noqa: PLC0415

    patch_the_interpreter()
    load, store, run = (
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_masked_store,
        Launch.run,
    )

    def watched_load(builder, pointers, mask, *rest):
        access(pointers, mask)
        return load(builder, pointers, mask, *rest)

    def watched_store(builder, pointers, value, mask, *rest):
        access(pointers, mask)
        return store(builder, pointers, value, mask, *rest)

    def watched_run(launched):
        launch(launched)
        run(launched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_load", watched_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", watched_store)
        patch.setattr(Launch, "run", watched_run)
        yield


def element_bytes(pointers: Any) -> int:
    """The size of what pointers of the interpreter point to."""
    return pointers.get_element_ty().primitive_bitwidth // 8


class Bounds:
    """Lets a kernel touch the elements of its launch's tensors, at their addresses, and no other.

    What lies between the elements of a tensor with gaps is another's.

    Attributes:
        checked: addresses that were found good.
    """

    def __init__(self) -> None:
        self.checked = 0
        self._kernel = ""
        self._elements: dict[int, np.ndarray] = {}

    def launch(self, launch: Launch) -> None:
        self._kernel = launch.kernel.__name__
        by_size: dict[int, list[np.ndarray]] = {}
        for value in launch.arguments.values():
            if isinstance(value, Tensor) and value.numel():
                by_size.setdefault(value.element_size(), []).append(addresses(value))
        self._elements = {size: np.unique(np.concatenate(parts)) for size, parts in by_size.items()}

    def access(self, pointers: Any, mask: Any) -> None:
        touched = np.atleast_1d(pointers.data)[np.atleast_1d(mask.data).astype(bool)]
        if not touched.size:
            return
        elements = self._elements.get(element_bytes(pointers), np.zeros(1, np.uint64))
        place = np.searchsorted(elements, touched).clip(max=len(elements) - 1)
        outside = touched[elements[place] != touched]
        if outside.size:
            raise IndexError(
                f"{self._kernel}: {outside.size} of {touched.size} addresses are no element of "
                f"{element_bytes(pointers)} bytes of the launch's tensors"
            )
        self.checked += touched.size


def addresses(tensor: Tensor) -> np.ndarray:
    """The address of every element, flat: uint64."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(size) * stride
    first = np.uint64(tensor.data_ptr())
    return first + (offsets * tensor.element_size()).flatten().numpy().astype(np.uint64)


@contextmanager
def bounds_checked() -> Iterator[Bounds]:
    """Every launch in here raises IndexError at the first address that is not its own."""
    bounds = Bounds()
    with watch(bounds.access, bounds.launch):
        yield bounds


@contextmanager
def checked_backend(name: str) -> Iterator[None]:
    """The backend of that name; in the interpreter with every address checked."""
    interpreted = name == "triton" and not torch.cuda.is_available()
    with milkernels.backend(name), bounds_checked() if interpreted else nullcontext():
        yield
