"""What is timed: operations, shapes, layouts, dtypes, and the tensors that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from benchmarks import eager
from milkernels import functional, reference

Pooling = Callable[..., Tensor]

LAYOUTS = {"classes_first": -1, "frames_first": 1}
KINDS = ("probabilities", "logits")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Operation:
    """A pooling: `name` is its function in `benchmarks.eager`, and with `_pool` in `milkernels` if
    no other `function` is given there, called with the `keywords`."""

    name: str
    parameters: tuple[str, ...] = ()
    scores: bool = False
    function: str | None = None
    keywords: Mapping[str, object] = field(default_factory=dict, hash=False)


#: One line registers an operation.
OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("mean"),
        Operation("max"),
        Operation("max_mean"),
        Operation("linear_softmax"),
        Operation("exp_softmax"),
        Operation("auto", parameters=("alpha",)),
        Operation("power", parameters=("power",)),
        Operation("power_exp", parameters=("power", "alpha")),
        Operation("attention", scores=True),
        Operation("noisy_or"),
        Operation("log_mean_exp", parameters=("sharpness",)),
        Operation(
            "class_attention",
            scores=True,
            function="attention_pool",
            keywords={"normalize": "classes"},
        ),
        Operation("rank", keywords={"decay": eager.DECAY}),
    )
}


@dataclass(frozen=True)
class Shape:
    """`cached`: the frames may lie in the last-level cache, as what a layer has just written."""

    name: str
    batch: int
    classes: int
    frames: int
    cached: bool


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("audioset", 64, 527, 400, cached=False),
        Shape("audioset_short", 250, 527, 100, cached=False),
        Shape("dcase", 100, 17, 100, cached=True),
        Shape("long", 8, 527, 3000, cached=False),
        Shape("in_cache", 8, 527, 100, cached=True),
        Shape("small", 8, 10, 50, cached=True),
    )
}
QUICK_SHAPES = ("in_cache", "small")


@dataclass(frozen=True)
class Case:
    """One setting; it is timed in every mode."""

    operation: Operation
    layout: str
    dtype: str
    kind: str
    shape: Shape

    @property
    def dim(self) -> int:
        return LAYOUTS[self.layout]

    @property
    def frame_bytes(self) -> int:
        """Bytes of the frame tensors: x, and the scores where there are some."""
        elements = self.shape.batch * self.shape.classes * self.shape.frames
        return elements * DTYPES[self.dtype].itemsize * (1 + self.operation.scores)


@dataclass(frozen=True)
class Inputs:
    """Tensors of one call: frame tensors, per-class parameters, and dL/dy."""

    frames: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    gradient: Tensor

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.frames + self.parameters

    def requiring_gradients(self, require: bool) -> Inputs:
        """The same memory, with gradients wanted or not."""

        def mark(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensor.detach().requires_grad_(require) for tensor in tensors)

        return replace(self, frames=mark(self.frames), parameters=mark(self.parameters))


def make_inputs(case: Case, device: torch.device, generator: torch.Generator) -> Inputs:
    """Random tensors: frames are mostly inactive, as a detector's are."""
    shape, dtype = case.shape, DTYPES[case.dtype]
    extent = (
        (shape.batch, shape.frames, shape.classes)
        if case.dim == 1
        else (shape.batch, shape.classes, shape.frames)
    )

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    logits = 2 * normal(*extent) - 1
    x = logits if case.kind == "logits" else logits.sigmoid()
    frames = (x, normal(*extent)) if case.operation.scores else (x,)
    parameters = tuple(
        0.5 + 2 * torch.rand(shape.classes, generator=generator, device=device)
        for _ in case.operation.parameters
    )
    return Inputs(
        tuple(tensor.to(dtype) for tensor in frames),
        tuple(tensor.to(dtype) for tensor in parameters),
        normal(shape.batch, shape.classes).to(dtype),
    )


def select(
    operations: list[Operation],
    layouts: list[str],
    dtypes: list[str],
    kinds: list[str],
    shapes: list[Shape],
) -> Iterator[Case]:
    """Every combination, shape by shape."""
    for shape in shapes:
        for operation in operations:
            for layout in layouts:
                for dtype in dtypes:
                    for kind in kinds:
                        yield Case(operation, layout, dtype, kind, shape)


def kernel(case: Case) -> Pooling:
    """The fused pooling."""
    return _pooling(functional, case)


def oracle(case: Case) -> Pooling:
    """The reference's pooling."""
    return _pooling(reference, case)


def _pooling(module: ModuleType, case: Case) -> Pooling:
    operation = case.operation
    function = getattr(module, operation.function or f"{operation.name}_pool")
    layout = {"dim": case.dim, "from_logits": case.kind == "logits"}
    return partial(function, **layout, **operation.keywords)


def eager_form(case: Case) -> Pooling:
    """The eager pooling; logits go through a sigmoid first."""
    function = getattr(eager, case.operation.name)
    dim = case.dim

    def from_probabilities(x: Tensor, *rest: Tensor) -> Tensor:
        return function(x, *rest, dim=dim)

    def from_logits(x: Tensor, *rest: Tensor) -> Tensor:
        return function(x.sigmoid(), *rest, dim=dim)

    return from_logits if case.kind == "logits" else from_probabilities


def compiled_form(case: Case) -> Pooling:
    """The eager pooling under `torch.compile`, for this shape alone; nothing compiles yet."""
    torch.compiler.reset()
    return torch.compile(eager_form(case), dynamic=False)


def step(function: Pooling, inputs: Inputs) -> tuple[Tensor, ...]:
    """Call the pooling; where its inputs want gradients, the backward pass too."""
    y = function(*inputs.arguments)
    if not y.requires_grad:
        return (y,)
    return y, *torch.autograd.grad(y, inputs.arguments, inputs.gradient)


def floor(inputs: Inputs) -> list[Tensor]:
    """The traffic that no implementation can avoid, as PyTorch moves it.

    Forward: each frame tensor is read once, by a sum. With gradients: each is read once and as much
    freshly allocated memory is written once, by a clone.
    """
    if inputs.frames[0].requires_grad:
        return [tensor.detach().clone() for tensor in inputs.frames]
    return [tensor.view(-1).view(torch.float32).sum() for tensor in inputs.frames]
