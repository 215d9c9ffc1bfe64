"""The arguments that a pooling takes after x, where its name chooses it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from milkernels import validation
from milkernels.family import POOLING_PARAMETERS

#: What stands for an argument that may be left out.
_DEFAULTS = {"score_activation": None, "normalize": "frames"}


def named(name: str, parameters: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The pooling's arguments by name, those left out included.

    Raises:
        TypeError: for an argument too many, given twice, unknown or missing.
    """
    names = POOLING_PARAMETERS[name]
    takes = ", ".join(names) or "nothing"
    if len(parameters) > len(names):
        raise TypeError(f"parameters: {name} takes {takes}, got {len(parameters)} of them")
    arguments = dict(zip(names, parameters, strict=False))
    for key, value in options.items():
        if key not in names or key in arguments:
            problem = "once" if key in names else f"a parameter of {name}, which takes {takes}"
            raise TypeError(f"{key}: expected {problem}")
        arguments[key] = value
    for key in names:
        if key not in arguments and key not in _DEFAULTS:
            raise TypeError(f"{key}: {name} needs it, got none")
        arguments.setdefault(key, _DEFAULTS.get(key))
    return arguments


def check(arguments: dict[str, Any], x: Tensor, classes: int) -> None:
    """Hold the arguments to x.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    for key, value in arguments.items():
        if key in ("power", "alpha"):
            validation.class_parameter(key, value, classes, x.device)
        elif key == "sharpness":
            validation.sharpness(value, classes, x.device)
        elif key == "scores":
            validation.attention_scores(value, x)
        elif key == "score_activation":
            validation.score_activation(value)
        elif key == "normalize":
            validation.score_axis(value)
        elif key == "decay":
            validation.decay(value)
