"""Which implementation serves a call: Triton, C++ or the PyTorch reference."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings
from types import TracebackType
from typing import Any

import torch

from milkernels.kernels.cpp import extension

NAMES = ("auto", "triton", "cpp", "reference")


def _has_triton() -> bool:
    """Whether Triton can be imported, without importing it."""
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


_HAS_TRITON = _has_triton()
_PREFERRED = {"cuda": "triton", "cpu": "cpp"}
_choice = "auto"


class backend:  # noqa: N801 - called like a function, bare or in a with statement
    """Choose the backend: called bare it sets it, in a `with` statement it sets it for the block.

    It is one setting for all threads.

    `"auto"` takes Triton for CUDA tensors, C++ for CPU tensors and the reference where those are
    missing. `"triton"` takes CPU tensors too under `TRITON_INTERPRET=1`. `"reference"` is plain
    PyTorch. A backward pass runs where its forward pass ran.

    Raises:
        ValueError: for any other name.

    >>> with milkernels.backend("reference"):
    ...     milkernels.build_info()["chosen"]
    'reference'
    """

    def __init__(self, name: str) -> None:
        global _choice  # noqa: PLW0603 - the one setting there is
        if name not in NAMES:
            raise ValueError(f"backend: expected one of {', '.join(NAMES)}, got {name!r}")
        self._previous = _choice
        _choice = name

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _choice  # noqa: PLW0603 - the one setting there is
        _choice = self._previous


def resolve(device: torch.device) -> str:
    """The backend that serves a tensor on `device`: "triton", "cpp" or "reference".

    Raises:
        RuntimeError: if the chosen backend cannot serve that device.
    """
    if _choice == "reference":
        return "reference"
    if _choice == "auto":
        return _automatic(device.type)
    problem = _problem(_choice, device.type)
    if problem is not None:
        raise RuntimeError(f"backend {_choice!r} cannot serve {device.type} tensors: {problem}")
    return _choice


def cpp_serves_cpu() -> bool:
    """Whether the C++ kernels serve tensors on the CPU."""
    return _choice in ("auto", "cpp") and extension.LOAD_ERROR is None


def _automatic(device_type: str) -> str:
    preferred = _preferred(device_type)
    return "reference" if _problem(preferred, device_type) else preferred


def _preferred(device_type: str) -> str:
    return _PREFERRED.get(device_type, "reference")


def _problem(name: str, device_type: str) -> str | None:
    """Why backend `name` cannot serve `device_type` tensors, or None if it can."""
    if name == "triton":
        if not _HAS_TRITON:
            return "Triton is not installed"
        if device_type != "cuda" and not (device_type == "cpu" and _interprets()):
            return "Triton needs a GPU tensor, or a CPU tensor under TRITON_INTERPRET=1"
    if name == "cpp":
        if extension.LOAD_ERROR is not None:
            return f"the C++ extension is not there ({extension.LOAD_ERROR})"
        if device_type != "cpu":
            return "the C++ kernels run on the CPU"
    return None


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def build_info() -> dict[str, Any]:
    """What is compiled, which instruction set runs, which backend serves a tensor here, and why.

    Returns:
        `version`s of torch and Triton, `cpp` (the extension's compiler, instruction sets built and
        chosen, threads), `chosen` (the backend asked for) and, for "cpu" and "cuda", `serves`: the
        backend and the reason. The backend is None where none serves, as of "cuda" where PyTorch
        finds no GPU.

    >>> milkernels.build_info()["chosen"]
    'auto'
    """
    return {
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if _HAS_TRITON else None,
        "cpp": extension.describe(),
        "chosen": _choice,
        "serves": {device_type: _service(device_type) for device_type in ("cpu", "cuda")},
    }


def _service(device_type: str) -> dict[str, str | None]:
    """The backend that serves a tensor on such a device, None if none does, and why."""
    missing = _missing(device_type)
    if missing is not None:
        return {"backend": None, "why": missing}
    automatic = _choice == "auto"
    asked = _preferred(device_type) if automatic else _choice
    problem = _problem(asked, device_type)
    if problem is not None:
        return {"backend": "reference" if automatic else None, "why": problem}
    why = "the fastest backend for this device" if automatic else "chosen by milkernels.backend"
    return {"backend": asked, "why": why}


def _missing(device_type: str) -> str | None:
    """Why this machine has no such device for PyTorch, or None if it has."""
    if device_type != "cuda" or torch.cuda.is_available():
        return None
    if not torch.backends.cuda.is_built():
        return "this PyTorch is built without CUDA and ROCm"
    return "PyTorch finds no GPU"


def warn_if_incomplete() -> None:
    """Say, once per process, that a compiled backend is missing and which one serves instead."""
    missing = []
    if extension.LOAD_ERROR is not None:
        missing.append(
            f"the C++ extension is not there ({extension.LOAD_ERROR}): "
            "CPU tensors are served by the PyTorch reference"
        )
    if not _HAS_TRITON:
        missing.append("Triton is not installed: CUDA tensors are served by the PyTorch reference")
    if missing:
        warnings.warn("milkernels: " + "; ".join(missing), RuntimeWarning, stacklevel=3)
