"""The eager twin of a network: the same parameters, its poolings in plain PyTorch."""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

from torch import nn

from milkernels import functional, reference


def use_reference_pooling(network: nn.Module, functions: object = reference) -> None:
    """Let every pooling in `network` call `milkernels.reference` in place of `functional`.

    Parameters, state_dict and numbers, to rounding, stay. The functions are called as they are:
    PyTorch's own autograd follows their operations one by one.

    Args:
        network: changed in place.
        functions: has the names of `functional` that the network uses, if not the reference.
    """
    for module in network.modules():
        kind: Any = type(module)
        if any(_calls_functional(method) for method in _methods(kind).values()):
            module.__class__ = _twin(kind, functions)


def _methods(kind: Any) -> dict[str, Any]:
    """What pools: the module's call, and its loss."""
    return {name: getattr(kind, name) for name in ("forward", "bce") if hasattr(kind, name)}


def _calls_functional(method: Any) -> bool:
    named = "functional" in method.__code__.co_names
    return named and method.__globals__.get("functional") is functional


@cache
def _twin(kind: Any, functions: object) -> type[nn.Module]:
    """A subclass whose methods find others under the name `functional`: the contract is that both
    have the same functions."""
    twins = {
        name: _with_functions(method, functions)
        for name, method in _methods(kind).items()
        if _calls_functional(method)
    }
    return type(f"Reference{kind.__name__}", (kind,), {**twins, "__doc__": kind.__doc__})


def _with_functions(method: Any, functions: object) -> FunctionType:
    names = {**method.__globals__, "functional": functions}
    twin = FunctionType(
        method.__code__, names, method.__name__, method.__defaults__, method.__closure__
    )
    twin.__kwdefaults__ = method.__kwdefaults__
    return twin
