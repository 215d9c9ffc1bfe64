"""How a family becomes operators: torch.library, fakes, autograd, choice of kernels.

A family is a pair of operators, forward and backward, below one autograd.Function each. A gradient
of a gradient goes through the reference, which is differentiable to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from milkernels.ops.vmap import one_by_one

_library = torch.library.Library("milkernels", "DEF")


@dataclass(frozen=True)
class Family:
    """The operators milkernels::NAME and milkernels::NAME_backward.

    `tensors` and `options` are schemas of the operators' arguments: the inputs, then what is no
    tensor, the backend last. The callables take them in this order:

    - `forward` gives y and the `saved` tensors that the backward pass needs beside the inputs;
    - `backward` takes (gradient, *tensors, *saved, needs, *options) and gives one gradient for each
      True of `needs`, which holds one bool for each input;
    - the fakes give outputs of the same shapes;
    - `reference` gives y in plain PyTorch.
    """

    name: str
    tensors: str
    options: str
    saved: int
    forward: Callable[..., Tensor | tuple[Tensor, ...]]
    forward_fake: Callable[..., Tensor | tuple[Tensor, ...]]
    backward: Callable[..., list[Tensor]]
    backward_fake: Callable[..., list[Tensor]]
    reference: Callable[..., Tensor]


_families: dict[str, Family] = {}


def register(family: Family) -> None:
    """Define the family's operators."""
    name = family.name
    saved = "".join(f"Tensor saved_{index}, " for index in range(family.saved))
    outputs = ", ".join(["Tensor"] * (1 + family.saved))
    define(
        name,
        f"({family.tensors}, {family.options}) -> ({outputs})",
        family.forward,
        family.forward_fake,
    )
    define(
        f"{name}_backward",
        f"(Tensor gradient, {family.tensors}, {saved}bool[] needs, {family.options}) -> Tensor[]",
        family.backward,
        family.backward_fake,
    )
    _families[name] = family


def family_named(name: str) -> Family:
    return _families[name]


def define(name: str, signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define the operator milkernels::NAME for every backend."""
    _library.define(f"{name}{signature}")
    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"milkernels::{name}", fake, lib=_library)
    operator = getattr(torch.ops.milkernels, name)
    torch.library.register_vmap(f"milkernels::{name}", one_by_one(operator), lib=_library)


def apply(name: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> Tensor:
    """y of the family `name`; arguments are checked by the caller.

    Raises:
        NotImplementedError: for a tensor with a tangent.
    """
    refuse_tangents(tensors)
    direct = _nobody_watches(tensors)
    if differentiates(*tensors):
        if direct:
            return _record(_families[name], options, *tensors)
        return _Fused.apply(name, options, *apart(tensors))[0]
    # Where autograd records nothing, its bookkeeping is left out.
    if direct:
        return _outputs(_families[name].forward(*tensors, *options))[0]
    return _outputs(getattr(torch.ops.milkernels, name)(*tensors, *options))[0]


def apart(tensors: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The tensors, none of them twice, which torch.compile would refuse."""
    found: list[Tensor | None] = []
    for tensor in tensors:
        twice = tensor is not None and any(tensor is other for other in found)
        found.append(tensor.view_as(tensor) if twice and tensor is not None else tensor)
    return found


def refuse_tangents(tensors: tuple[Tensor | None, ...]) -> None:
    """Without a derivative of its own an operator would drop them without a word."""
    if forward_ad._current_level < 0:
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError("forward-mode AD: milkernels has derivatives backward alone")


_PLAIN = (Tensor, torch.nn.Parameter, type(None))
_dispatch_modes = torch._C._len_torch_dispatch_stack
transforms_are_active = torch._C._are_functorch_transforms_active
_tracing_state = torch._C._get_tracing_state
_is_traced_by_dynamo = torch.compiler.is_dynamo_compiling


def _nobody_watches(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether no tracer, profiler, transform or tensor subclass needs to see an operator, nor a
    tensor that PyTorch has yet to negate. Then the kernels are called without one: the dispatcher's
    way costs small calls more than their work."""
    if somebody_watches():
        return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN or (tensor is not None and tensor.is_neg()):
            return False
    return True


def somebody_watches() -> bool:
    """Whether a tracer, profiler or transform needs to see operators."""
    return (
        _is_traced_by_dynamo()
        or _dispatch_modes() != 0
        or transforms_are_active()
        or _tracing_state() is not None
        or profiler._is_profiler_enabled
        or forward_ad._current_level >= 0
    )


def _outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What an operator gives: PyTorch takes a single output out of its tuple."""
    return (result,) if isinstance(result, Tensor) else result


def differentiates(*tensors: Tensor | None) -> bool:
    """Whether autograd may record a call with these tensors."""
    if torch.is_grad_enabled():
        # Inside a transform of torch.func a tensor does not tell what is recorded outside of it.
        hidden = transforms_are_active()
        for tensor in tensors:
            if tensor is not None and (hidden or tensor.requires_grad):
                return True
    return False


class _Direct(torch.autograd.Function):
    """The family's kernels, called without the dispatcher."""

    @staticmethod
    def forward(
        ctx: Any, family: Family, options: tuple[Any, ...], *tensors: Tensor | None
    ) -> Tensor:
        y, *saved = _outputs(family.forward(*tensors, *options))
        ctx.family, ctx.options, ctx.inputs = family, options, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        family = ctx.family
        gradient = None if gradient is None else gradient.resolve_neg()
        return _gradients_of_all(ctx, family, gradient, family.backward)


# Function.apply without its preparations for transforms of torch.func: none is active here.
_record = super(torch.autograd.Function, _Direct).apply


class _Fused(torch.autograd.Function):
    """The family's operators, as tracers and transforms see them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, options: tuple[Any, ...], *tensors: Tensor | None) -> Any:
        return _outputs(getattr(torch.ops.milkernels, name)(*tensors, *options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, ctx.options, *tensors = inputs
        ctx.inputs = len(tensors)
        _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *saved)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        operator = getattr(torch.ops.milkernels, f"{ctx.name}_backward")
        return _gradients_of_all(ctx, _families[ctx.name], gradient, operator)


def _gradients_of_all(
    ctx: Any, family: Family, gradient: Tensor | None, backward: Callable[..., list[Tensor]]
) -> tuple[Tensor | None, ...]:
    """Gradients of a Function's inputs: a family, its options, and tensors."""
    needs = list(ctx.needs_input_grad[2:])
    if gradient is None:
        return None, None, *(None for _ in needs)
    saved = ctx.saved_tensors
    return None, None, *input_gradients(family, ctx.options, needs, gradient, saved, backward)


def input_gradients(
    family: Family,
    options: tuple[Any, ...],
    needs: list[bool],
    gradient: Tensor,
    saved: Sequence[Tensor | None],
    backward: Callable[..., list[Tensor]],
) -> list[Tensor | None]:
    """Gradients of a family's tensors, by its kernels, None for those without need. `saved` are the
    tensors and what the forward pass left."""
    reference = family.reference
    gradients: Sequence[Tensor]
    if torch.is_grad_enabled():
        operator = getattr(torch.ops.milkernels, f"{family.name}_backward")
        gradients = differentiable_gradients(
            lambda *tensors: operator(*tensors, needs, *options),
            lambda *inputs: reference(*inputs, *options),
            needs,
            gradient,
            saved,
        )
    else:
        gradients = backward(gradient, *saved, needs, *options)
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs]


def differentiable_gradients(
    backward: Callable[..., Sequence[Tensor]],
    reference: Callable[..., Tensor],
    needs: Sequence[bool],
    gradient: Tensor,
    tensors: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Gradients for the inputs in need, by kernels, that can be differentiated again.

    `tensors` are the inputs, one for each of `needs`, then what else the kernels need.
    `backward(gradient, *tensors)` gives the gradients, and `reference(*inputs)` the value that they
    are of, in plain PyTorch.
    """
    return _Gradients.apply(backward, reference, tuple(needs), gradient, *tensors)


class _Gradients(torch.autograd.Function):
    """Gradients as a function of the value's gradient and of the inputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        backward: Callable[..., Sequence[Tensor]],
        reference: Callable[..., Tensor],
        needs: tuple[bool, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return tuple(backward(*tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.reference, ctx.needs, *tensors = inputs
        ctx.given = len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[: 1 + len(ctx.needs)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3 : 3 + len(tensors)]
        found = _second_gradients(ctx.reference, tensors, ctx.needs, wanted, gradients)
        return None, None, None, *found, *(None for _ in range(ctx.given - len(tensors)))


def _second_gradients(
    reference: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of the wanted `tensors`, the value's gradient and the inputs, from `gradients` of
    the first gradients. Each tensor stands for itself alone, whatever it was computed from and
    however often it is given."""
    inputs_in_need = [place for place, need in enumerate(needs) if need]
    free = [
        place
        for place, (tensor, want) in enumerate(zip(tensors, wanted, strict=True))
        if want and tensor is not None
    ]

    def first(*given: Tensor) -> tuple[Tensor, ...]:
        gradient, *inputs = _replaced(tensors, free, given)
        _, pull, *_ = torch.func.vjp(
            lambda *values: reference(*_replaced(inputs, inputs_in_need, values)),
            *(inputs[place] for place in inputs_in_need),
        )
        return pull(gradient)

    # Autocast would round the reference's matrix products to half precision.
    with torch.autocast(cast(Tensor, tensors[0]).device.type, enabled=False):
        firsts, pull, *_ = torch.func.vjp(first, *(tensors[place] for place in free))
        pairs = zip(firsts, gradients, strict=True)
        found = pull(
            tuple(torch.zeros_like(one) if given is None else given for one, given in pairs)
        )
    return _replaced([None] * len(tensors), free, found)


def _replaced(
    tensors: Sequence[Tensor | None], places: list[int], values: Sequence[Tensor]
) -> list[Tensor | None]:
    """`tensors` with others at some places."""
    given = dict(zip(places, values, strict=True))
    return [given.get(place, tensor) for place, tensor in enumerate(tensors)]


class _Triton:
    """A family's Triton kernels, run where they are launched."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._run = import_module("milkernels.kernels.launch").run

    def forward(self, *arguments: Any) -> Any:
        launches, outputs = self._module.forward(*arguments)
        self._run(launches)
        return outputs

    def backward(self, *arguments: Any) -> None:
        self._run(self._module.backward(*arguments))


@cache
def kernels(backend: str, family: str) -> Any:
    """`forward` and `backward` of a family on a backend. Imported when a call first needs them, so
    that Triton is not imported where it does not serve."""
    if backend == "triton":
        return _Triton(import_module(f"milkernels.kernels.{family}"))
    return import_module(f"milkernels.kernels.cpp.{family}")


@overload
def by_class(tensor: Tensor, dim: int) -> Tensor: ...
@overload
def by_class(tensor: Tensor | None, dim: int) -> Tensor | None: ...
def by_class(tensor: Tensor | None, dim: int) -> Tensor | None:
    """A frame tensor as a (bags, classes, frames) view."""
    return tensor if tensor is None or dim == 2 else tensor.transpose(1, 2)
