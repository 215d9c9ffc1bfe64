"""The C++ kernels, behind the same functions as the Triton ones."""

from __future__ import annotations

from typing import Any

LOAD_ERROR: str | None = "not built yet"


def describe() -> dict[str, Any]:
    """What the extension was built with, or why it is missing."""
    return {"error": LOAD_ERROR}
