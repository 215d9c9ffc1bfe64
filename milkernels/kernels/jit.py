"""How kernels are compiled: once for all numbers of bags."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.runtime.jit import JITFunction

from milkernels import family

#: Counts that change from batch to batch, with bags of different lengths freely. Triton would
#: compile a kernel anew where one is 1 or a multiple of 16, and no access is wider for it.
COUNTS = ("bags", "cells", "instances", "parts", "search_steps", "segments")


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel, which Triton's cache on disk keeps for these sources alone: it does not see the
    constants of other modules, nor what properties of a constant argument compute."""
    compiled = triton.jit(do_not_specialize=COUNTS)(function)
    if isinstance(compiled, JITFunction):
        source = compiled.src.rstrip("\n")
        compiled._unsafe_update_src(f"{source}\n    # sources: {_digest()}\n")
    return compiled


@cache
def _digest() -> str:
    sources = [Path(family.__file__), *sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
