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
        if _calls_functional(type(module).forward):
            kind: Any = type(module)
            module.__class__ = _twin(kind, functions)


def _calls_functional(forward: Any) -> bool:
    named = "functional" in forward.__code__.co_names
    return named and forward.__globals__.get("functional") is functional


@cache
def _twin(kind: Any, functions: object) -> type[nn.Module]:
    """A subclass whose `forward` finds others under the name `functional`: the contract is that
    both have the same functions."""
    forward = kind.forward
    names = {**forward.__globals__, "functional": functions}
    twin = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    twin.__kwdefaults__ = forward.__kwdefaults__
    return type(f"Reference{kind.__name__}", (kind,), {"forward": twin, "__doc__": kind.__doc__})
