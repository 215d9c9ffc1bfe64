"""The public names with their signatures, one a line.

    PYTHONPATH=. python tests/public_surface.py > tests/public_surface.txt

writes the list that `tests/test_public_surface.py` holds the package to.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import milkernels
from milkernels import compat, functional, nn

#: `milkernels.reference` has the functions of `milkernels.functional`.
MODULES = (milkernels, functional, nn, compat)


def lines() -> list[str]:
    return [line for module in MODULES for line in _of_module(module)]


def _of_module(module: ModuleType) -> Iterator[str]:
    for name in module.__all__:
        value = getattr(module, name)
        where = f"{module.__name__}.{name}"
        if not callable(value):
            yield where
            continue
        yield f"{where}{signature(value)}"
        if inspect.isclass(value):
            for member, function in _methods(value).items():
                yield f"{where}.{member}{signature(function)}"


def _methods(kind: type) -> dict[str, object]:
    """Public methods that a class does not have from a public base or from PyTorch."""
    bases = [base for base in kind.__mro__[1:] if not base.__name__.startswith("_")]
    return {
        name: function
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__.startswith("milkernels")
        and (name == "forward" or not any(hasattr(base, name) for base in bases))
    }


def signature(function: object) -> str:
    """As it stands in the source: annotations without quotes."""
    text = str(inspect.signature(function))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


if __name__ == "__main__":
    print("\n".join(lines()))
