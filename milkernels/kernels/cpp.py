"""The C++ kernels, behind the same functions as the Triton ones in `gpu`.

Frame tensors are (bags, classes, frames) views of any strides; those contiguous along neither
classes nor frames are copied.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES

# torch is imported first, above: the kernels run on the threads of its OpenMP runtime.
try:
    _kernels: ModuleType | None = import_module("milkernels._C")
    LOAD_ERROR: str | None = None
except ImportError as error:
    _kernels = None
    LOAD_ERROR = str(error)

_ELEMENTS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}

#: Values of the C++ enum Member, by the terms of the log-weight.
_MEAN, _LINEAR, _EXPONENTIAL, _POWER, _POWER_EXPONENTIAL, _ATTENTION = range(6)

#: Rows of the statistics: peak, total and average. What learned parameters need is summed in
#: the backward pass.
STATISTICS_ROWS = 3

_NO_MASK = (0, 0, 0)
_NO_FRAMES = (0, 0, 0, 0)


def describe() -> dict[str, Any]:
    """What the extension was built with and runs on, or why it is missing."""
    if _kernels is None:
        return {"error": LOAD_ERROR}
    return {
        "compiler": _kernels.compiler,
        "openmp": _kernels.openmp,
        "usable_instruction_sets": _kernels.usable_instruction_sets(),
        "instruction_set": _kernels.chosen_instruction_set(),
        "threads": torch.get_num_threads(),
    }


def weighted_average_forward(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    from_logits: bool,
    learn: bool,
) -> tuple[Tensor, Tensor]:
    """Bag values (bags, classes) and the statistics that the backward pass needs."""
    axis = _lane_axis(x)
    x, scores = _along(x, axis), _along(scores, axis)
    power, alpha = _in_arithmetic(power, x), _in_arithmetic(alpha, x)
    y = x.new_empty(x.shape[:2])
    statistics = x.new_empty((STATISTICS_ROWS, *x.shape[:2]), dtype=_arithmetic(x))
    _kernels.weighted_average_forward(
        _ELEMENTS[x.dtype],
        _member(member),
        SCORE_ACTIVATIONS.index(score_activation),
        from_logits,
        _layout(x, axis),
        _frames(x),
        _frames(scores),
        _mask(mask),
        _address(power),
        _address(alpha),
        y.data_ptr(),
        statistics.data_ptr(),
    )
    return y, statistics


def weighted_average_backward(
    member: str,
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    score_activation: str | None,
    from_logits: bool,
    x_gradient: Tensor,
    scores_gradient: Tensor | None,
    power_gradient: Tensor | None,
    alpha_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    axis = _lane_axis(x)
    x, scores = _along(x, axis), _along(scores, axis)
    power, alpha = _in_arithmetic(power, x), _in_arithmetic(alpha, x)
    gradient = gradient.contiguous()
    given = (x_gradient, scores_gradient, power_gradient, alpha_gradient)
    filled = (
        _empty_along(x_gradient, axis),
        _empty_along(scores_gradient, axis),
        _empty_in_arithmetic(power_gradient, x),
        _empty_in_arithmetic(alpha_gradient, x),
    )
    _kernels.weighted_average_backward(
        _ELEMENTS[x.dtype],
        _member(member),
        SCORE_ACTIVATIONS.index(score_activation),
        from_logits,
        _layout(x, axis),
        _frames(x),
        _frames(scores),
        _mask(mask),
        _address(power),
        _address(alpha),
        gradient.data_ptr(),
        statistics.data_ptr(),
        _frames(filled[0]),
        _frames(filled[1]),
        _address(filled[2]),
        _address(filled[3]),
    )
    _hand_over(filled, given)


def maximum_forward(x: Tensor, mask: Tensor | None, from_logits: bool) -> tuple[Tensor, Tensor]:
    """Bag values and each maximum's frame (bags, classes), -1 for a bag without a real frame."""
    axis = _lane_axis(x)
    x = _along(x, axis)
    y = x.new_empty(x.shape[:2])
    index = x.new_empty(x.shape[:2], dtype=torch.int64)
    _kernels.maximum_forward(
        _ELEMENTS[x.dtype],
        from_logits,
        _layout(x, axis),
        _frames(x),
        _mask(mask),
        y.data_ptr(),
        index.data_ptr(),
    )
    return y, index


def maximum_backward(
    gradient: Tensor, x: Tensor, index: Tensor, from_logits: bool, x_gradient: Tensor
) -> None:
    """Fill the gradient of x."""
    axis = _lane_axis(x_gradient)
    gradient = gradient.contiguous()
    filled = _empty_along(x_gradient, axis)
    _kernels.maximum_backward(
        _ELEMENTS[x.dtype],
        from_logits,
        _layout(x, axis),
        _frames(x),
        gradient.data_ptr(),
        index.data_ptr(),
        _frames(filled),
    )
    _hand_over((filled,), (x_gradient,))


def _member(name: str) -> int:
    coefficients = WEIGHTED_AVERAGES[name]
    if coefficients.scores:
        return _ATTENTION
    if coefficients.alpha != "none":
        return _EXPONENTIAL if coefficients.power == "none" else _POWER_EXPONENTIAL
    return {"none": _MEAN, "one": _LINEAR, "learned": _POWER}[coefficients.power]


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _lane_axis(x: Tensor) -> int:
    """The axis that vectors run along: 2 for frames, 1 for classes."""
    return 1 if x.stride(1) == 1 and x.stride(2) != 1 else 2


def _along(tensor: Tensor | None, axis: int) -> Tensor | None:
    """The tensor, or a copy contiguous along `axis`."""
    if tensor is None or tensor.stride(axis) == 1 or tensor.shape[axis] <= 1:
        return tensor
    return _empty_along(tensor, axis).copy_(tensor)


def _empty_along(tensor: Tensor | None, axis: int) -> Tensor | None:
    """The tensor, or an empty one like it that is contiguous along `axis`."""
    if tensor is None or tensor.stride(axis) == 1 or tensor.shape[axis] <= 1:
        return tensor
    bags, classes, frames = tensor.shape
    if axis == 2:
        return tensor.new_empty((bags, classes, frames))
    return tensor.new_empty((bags, frames, classes)).transpose(1, 2)


def _in_arithmetic(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(_arithmetic(x)).contiguous()


def _empty_in_arithmetic(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    if parameter is None or (parameter.dtype == _arithmetic(x) and parameter.is_contiguous()):
        return parameter
    return torch.empty(parameter.shape, dtype=_arithmetic(x))


def _hand_over(filled: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> None:
    """Copy what the kernel could not write in place."""
    for source, target in zip(filled, given, strict=True):
        if source is not None and source is not target:
            target.copy_(source)


def _layout(x: Tensor, axis: int) -> tuple[tuple[int, ...], bool, int]:
    return tuple(x.shape), axis == 2, torch.get_num_threads()


def _frames(tensor: Tensor | None) -> tuple[int, ...]:
    return _NO_FRAMES if tensor is None else (tensor.data_ptr(), *tensor.stride())


def _mask(mask: Tensor | None) -> tuple[int, ...]:
    return _NO_MASK if mask is None else (mask.data_ptr(), *mask.stride())


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
