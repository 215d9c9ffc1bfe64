"""What Triton's interpreter launches, loads and stores, shown to who asks.

In the interpreter every load and store of every form passes through the two methods watched here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from milkernels.kernels.launch import Launch


def interprets() -> bool:
    """Whether Triton does not compile its kernels."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def leave_to_the_emulator(backend: str) -> None:
    """Skip what takes the interpreter minutes: tests/test_emulator.py runs it as it is compiled."""
    if backend == "triton" and interprets():
        pytest.skip("minutes in the interpreter; the emulator runs it")


@dataclass(frozen=True)
class Access:
    """A load or store that a program is about to do.

    Attributes:
        addresses: of the elements, once for each thread whose mask is on.
        element_bytes: size of each.
        stored: what these threads store, None of a load.
        program: which of the launch's.
    """

    addresses: np.ndarray
    element_bytes: int
    stored: np.ndarray | None
    program: int


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
def watch(access: Callable[[Access], None], launch: Callable[[Launch], None]) -> Iterator[None]:
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
        access(_access(builder, pointers, mask))
        return load(builder, pointers, mask, *rest)

    def watched_store(builder, pointers, value, mask, *rest):
        access(_access(builder, pointers, mask, value))
        return store(builder, pointers, value, mask, *rest)

    def watched_run(launched):
        launch(launched)
        run(launched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_load", watched_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", watched_store)
        patch.setattr(Launch, "run", watched_run)
        yield


def _access(builder: Any, pointers: Any, mask: Any, value: Any = None) -> Access:
    on = np.atleast_1d(mask.data).astype(bool)
    return Access(
        np.atleast_1d(pointers.data)[on],
        pointers.get_element_ty().primitive_bitwidth // 8,
        None if value is None else np.atleast_1d(value.data)[on],
        builder.grid_idx[0],
    )
