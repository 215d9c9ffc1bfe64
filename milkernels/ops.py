"""The operators: schemas, fakes, autograd and the choice of kernels. Knows torch.library alone.

Each pooling family is a pair of operators, forward and backward, below one autograd.Function. A
gradient of a gradient goes through the reference, which is differentiable to any order.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from milkernels import reference
from milkernels.family import WEIGHTED_AVERAGES

_library = torch.library.Library("milkernels", "DEF")

_MEMBER = "str member, str? score_activation, int dim, bool from_logits, bool learn, str backend"
_INPUTS = "Tensor x, Tensor? scores, Tensor? power, Tensor? alpha, Tensor? mask"
_library.define(f"weighted_average({_INPUTS}, {_MEMBER}) -> (Tensor, Tensor)")
_library.define(
    f"weighted_average_backward(Tensor gradient, {_INPUTS}, Tensor statistics, {_MEMBER})"
    " -> Tensor[]"
)
_LAYOUT = "int dim, bool from_logits, str backend"
_library.define(f"maximum(Tensor x, Tensor? mask, {_LAYOUT}) -> (Tensor, Tensor)")
_library.define(f"maximum_backward(Tensor gradient, Tensor x, Tensor index, {_LAYOUT}) -> Tensor")


def weighted_average(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    backend: str,
) -> Tensor:
    """Bag values of one member of the family; arguments are checked by the caller."""
    learned = [tensor for tensor in (power, alpha) if tensor is not None]
    learn = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
    options = (member, score_activation, dim, from_logits, learn, backend)
    if _differentiates(x, scores, *learned):
        return _WeightedAverage.apply(x, scores, power, alpha, mask, options)[0]
    return torch.ops.milkernels.weighted_average(x, scores, power, alpha, mask, *options)[0]


def maximum(x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str) -> Tensor:
    """Largest frame of each bag; arguments are checked by the caller."""
    options = (dim, from_logits, backend)
    if _differentiates(x):
        return _Maximum.apply(x, mask, options)[0]
    return torch.ops.milkernels.maximum(x, mask, *options)[0]


def _differentiates(*tensors: Tensor | None) -> bool:
    """Whether autograd records the call: where it does not, its bookkeeping is left out."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


class _WeightedAverage(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        scores: Tensor | None,
        power: Tensor | None,
        alpha: Tensor | None,
        mask: Tensor | None,
        options: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.milkernels.weighted_average(x, scores, power, alpha, mask, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.options = inputs
        _, statistics = output
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, statistics)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 6
        *inputs, statistics = ctx.saved_tensors
        member, score_activation, dim, from_logits, _, _ = ctx.options
        if torch.is_grad_enabled():
            y = _reference_average(member, *inputs, score_activation, dim, from_logits)
            return *_differentiable_gradients(ctx, y, inputs, gradient), None, None
        gradients = torch.ops.milkernels.weighted_average_backward(
            gradient, *inputs, statistics, *ctx.options
        )
        present = _gradients_present(*inputs[1:4], ctx.options)
        remaining = iter(gradients)
        return *(next(remaining) if here else None for here in (True, *present)), None, None


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, mask: Tensor | None, options: tuple[int, bool, str]
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.milkernels.maximum(x, mask, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, mask, ctx.options = inputs
        _, index = output
        ctx.mark_non_differentiable(index)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mask, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 3
        x, mask, index = ctx.saved_tensors
        if torch.is_grad_enabled():
            dim, from_logits, _ = ctx.options
            y = reference.max_pool(x, dim=dim, mask=mask, from_logits=from_logits)
            return *_differentiable_gradients(ctx, y, [x], gradient), None, None
        return torch.ops.milkernels.maximum_backward(gradient, x, index, *ctx.options), None, None


def _reference_average(
    member: str,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
) -> Tensor:
    function = getattr(reference, f"{member}_pool")
    layout = {"dim": dim, "mask": mask, "from_logits": from_logits}
    if scores is not None:
        return function(x, scores, score_activation, **layout)
    return function(x, *(tensor for tensor in (power, alpha) if tensor is not None), **layout)


def _differentiable_gradients(
    ctx: Any, y: Tensor, inputs: list[Tensor | None], gradient: Tensor
) -> list[Tensor | None]:
    """Gradients of `inputs` that can be differentiated again."""
    needed = [index for index, need in enumerate(ctx.needs_input_grad[: len(inputs)]) if need]
    gradients = torch.autograd.grad(
        y, [inputs[index] for index in needed], gradient, create_graph=True
    )
    result: list[Tensor | None] = [None] * min(len(inputs), 4)
    for index, value in zip(needed, gradients, strict=True):
        result[index] = value
    return result


def _gradients_present(
    scores: Tensor | None, power: Tensor | None, alpha: Tensor | None, options: tuple[Any, ...]
) -> tuple[bool, bool, bool]:
    """Which of the scores', the power's and alpha's gradients a backward operator returns."""
    learn = options[4]
    return scores is not None, learn and power is not None, learn and alpha is not None


def _kernels(backend: str) -> ModuleType:
    """The kernels of a backend. Triton is imported here, when a call first needs it."""
    if backend == "triton":
        from milkernels.kernels import gpu  # noqa: PLC0415

        return gpu
    from milkernels.kernels import cpp  # noqa: PLC0415

    return cpp


def _by_class(tensor: Tensor | None, dim: int) -> Tensor | None:
    """A frame tensor as a (bags, classes, frames) view."""
    return tensor if tensor is None or dim == 2 else tensor.transpose(1, 2)


def _weighted_average(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _kernels(backend).weighted_average_forward(
        member,
        _by_class(x, dim),
        _by_class(scores, dim),
        power,
        alpha,
        mask,
        score_activation,
        from_logits,
        learn,
    )


def _weighted_average_fake(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    bags, classes = x.shape[0], x.shape[3 - dim]
    rows = _statistics_rows(member, learn, backend)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = x.new_empty((bags, classes))
    return y, x.new_empty((rows, bags, classes), dtype=compute)


def _statistics_rows(member: str, learn: bool, backend: str) -> int:
    """Peak, total and average; Triton's forward pass adds a covariance for each parameter."""
    return 3 + (len(WEIGHTED_AVERAGES[member].learned) if learn and backend == "triton" else 0)


def _empty_gradients(
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    learn: bool,
) -> list[Tensor | None]:
    return [
        torch.empty_like(x),
        None if scores is None else torch.empty_like(scores),
        torch.empty_like(power) if learn and power is not None else None,
        torch.empty_like(alpha) if learn and alpha is not None else None,
    ]


def _weighted_average_backward(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> list[Tensor]:
    gradients = _empty_gradients(x, scores, power, alpha, learn)
    x_gradient, scores_gradient, power_gradient, alpha_gradient = gradients
    _kernels(backend).weighted_average_backward(
        member,
        gradient,
        _by_class(x, dim),
        _by_class(scores, dim),
        power,
        alpha,
        mask,
        statistics,
        score_activation,
        from_logits,
        _by_class(x_gradient, dim),
        _by_class(scores_gradient, dim),
        power_gradient,
        alpha_gradient,
    )
    return [tensor for tensor in gradients if tensor is not None]


def _weighted_average_backward_fake(
    gradient: Tensor,
    x: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    member: str,
    score_activation: str | None,
    dim: int,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> list[Tensor]:
    gradients = _empty_gradients(x, scores, power, alpha, learn)
    return [tensor for tensor in gradients if tensor is not None]


def _maximum(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return _kernels(backend).maximum_forward(_by_class(x, dim), mask, from_logits)


def _maximum_fake(
    x: Tensor, mask: Tensor | None, dim: int, from_logits: bool, backend: str
) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], x.shape[3 - dim]
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _maximum_backward(
    gradient: Tensor, x: Tensor, index: Tensor, dim: int, from_logits: bool, backend: str
) -> Tensor:
    x_gradient = torch.empty_like(x)
    _kernels(backend).maximum_backward(
        gradient, _by_class(x, dim), index, from_logits, _by_class(x_gradient, dim)
    )
    return x_gradient


def _maximum_backward_fake(
    gradient: Tensor, x: Tensor, index: Tensor, dim: int, from_logits: bool, backend: str
) -> Tensor:
    return torch.empty_like(x)


for _name, _kernel, _fake in (
    ("weighted_average", _weighted_average, _weighted_average_fake),
    (
        "weighted_average_backward",
        _weighted_average_backward,
        _weighted_average_backward_fake,
    ),
    ("maximum", _maximum, _maximum_fake),
    ("maximum_backward", _maximum_backward, _maximum_backward_fake),
):
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _kernel, _device)
    torch.library.register_fake(f"milkernels::{_name}", _fake, lib=_library)
