"""Poolings on a CPU, each pass in one call of the extension.

What `ops.library` does for whatever comes (checks, views, memory, kernel, one by one) takes longer
than the kernels of small calls. Here the extension does it all, for tensors that its kernels read
as they are; the others go the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from milkernels.kernels.cpp import extension
from milkernels.ops.library import differentiates, family_named, input_gradients, somebody_watches

#: The frame axis by each of its names.
_AXES = {-1: 2, 2: 2, 1: 1, -2: 1}


@dataclass(frozen=True)
class WholePass:
    """A family's passes in the extension, and what a call asks for beside its tensors: as their
    `numbers`, and as the `options` of the family's operators.

    - `forward(*numbers, threads, *tensors)` gives y, what the backward pass needs in a memory of
      its own, and what tensors it needs; or None for tensors that go the general way;
    - `backward(*numbers, threads, learn, gradient, *tensors, *needed_tensors, memory)` gives a
      gradient or None for each tensor, those of learned parameters if `learn`, and two None more.
    """

    family: str
    no_others: tuple[None, ...]
    numbers: tuple[float, ...]
    options: tuple[Any, ...]
    forward: Callable[..., tuple[Tensor, ...] | None]
    backward: Callable[..., Sequence[Tensor | None]]

    @staticmethod
    def of(family: str, others: int, numbers: tuple[float, ...], *options: Any) -> WholePass:
        """Of a family that takes so many tensors beside x."""
        functions = extension.functions
        return WholePass(
            family,
            (None,) * others,
            numbers,
            (*options, "cpp"),
            getattr(functions, f"{family}_pass"),
            getattr(functions, f"{family}_gradients"),
        )


def frame_axis(dim: int, from_logits: bool) -> int | None:
    """The frame axis, None for a call that goes the general way, where it may be refused."""
    if somebody_watches() or type(dim) is not int or type(from_logits) is not bool:
        return None
    return _AXES.get(dim)


def apply_whole(whole: WholePass, x: Tensor, *others: Tensor | None) -> Tensor | None:
    """y, or None for tensors that go the general way."""
    result = whole.forward(*whole.numbers, torch.get_num_threads(), x, *others)
    if result is None:
        return None
    if not torch.is_grad_enabled():
        return result[0]
    for other in others:
        if other is not None:
            record = differentiates(x, *others)
            return _record(x, *others, whole, result) if record else result[0]
    return _record_alone(x, whole, result) if x.requires_grad else result[0]


class _Whole(torch.autograd.Function):
    """A forward pass that is done, and its backward pass."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, whole, (y, memory, *needed) = given
        ctx.call = whole, memory
        ctx.save_for_backward(*tensors, *needed)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Sequence[Tensor | None]:
        whole, memory = ctx.call
        needs, tensors = ctx.needs_input_grad[:-2], ctx.saved_tensors
        found = None
        if not torch.is_grad_enabled():
            threads, learn = torch.get_num_threads(), any(needs[1:])
            found = whole.backward(*whole.numbers, threads, learn, gradient, *tensors, memory)
        if found is None:
            return *_of_the_family(whole, needs, gradient, tensors), None, None
        return found


class _WholeAlone(torch.autograd.Function):
    """The same of x alone: what is not there costs autograd time, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, whole: WholePass, result: tuple[Any, ...]) -> Tensor:
        ctx.call = whole, result[1]
        ctx.save_for_backward(x, *result[2:])
        return result[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Sequence[Tensor | None]:
        whole, memory = ctx.call
        x, *needed = ctx.saved_tensors
        saved = (x, *whole.no_others, *needed)
        found = None
        if not torch.is_grad_enabled():
            threads = torch.get_num_threads()
            found = whole.backward(*whole.numbers, threads, False, gradient, *saved, memory)
        if found is None:
            needs = (True, *(False for _ in whole.no_others))
            return _of_the_family(whole, needs, gradient, saved)[0], None, None
        return found


# Function.apply without its preparations for transforms of torch.func: none is active here.
_record = super(torch.autograd.Function, _Whole).apply
_record_alone = super(torch.autograd.Function, _WholeAlone).apply


def _of_the_family(
    whole: WholePass, needs: Sequence[bool], gradient: Tensor, saved: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    family = family_named(whole.family)
    tensors = saved[: len(needs)]
    # The memory is no tensor, as the family's operators need it.
    with torch.no_grad():
        _, *kept = family.forward(*tensors, *whole.options)
    needed = list(needs)
    gradient = gradient.resolve_neg()
    return input_gradients(
        family, whole.options, needed, gradient, (*tensors, *kept), family.backward
    )
