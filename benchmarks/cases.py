"""What is timed: operations, shapes, layouts, dtypes, and the tensors that they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: Called with an `Inputs`' arguments.
Pooling = Callable[..., Tensor]

LAYOUTS = {"classes_first": -1, "frames_first": 1}
KINDS = ("probabilities", "logits")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Shape:
    """Sizes of x. `cached`: it may lie in the last-level cache, as what a layer has just written.

    `width` is the last axis of rows that linear attention pools, `heads` those of statistics.
    """

    name: str
    batch: int
    classes: int
    frames: int
    cached: bool
    width: int = 1
    heads: int = 1

    def __str__(self) -> str:
        sizes = f"{self.batch} x {self.classes} x {self.frames}"
        sizes += f" x {self.width}" if self.width > 1 else ""
        return sizes + (f", {self.heads} heads" if self.heads > 1 else "")


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("audioset", 64, 527, 400, cached=False),
        Shape("audioset_short", 250, 527, 100, cached=False),
        Shape("dcase", 100, 17, 100, cached=True),
        Shape("long", 8, 527, 3000, cached=False),
        Shape("slide", 1, 2, 100_000, cached=True),
        Shape("slides", 4, 512, 20_000, cached=False),
        Shape("in_cache", 8, 527, 100, cached=True),
        Shape("small", 8, 10, 50, cached=True),
        Shape("gmap", 64, 512, 100, cached=False, heads=4),
        Shape("two_step", 24, 41, 311, cached=False, width=64),
    )
}
QUICK_SHAPES = ("in_cache", "small")

#: Shapes of frame values, which the frame-level poolings take.
FRAME_SHAPES = tuple(name for name, shape in SHAPES.items() if shape.width == shape.heads == 1)


class Operation(ABC):
    """Something that milkernels does in one kernel and PyTorch in several."""

    #: Its name in tables and on the command line.
    name: str
    #: Its differentiable arguments, the large ones first.
    arguments: tuple[str, ...]
    shapes: Sequence[str] = FRAME_SHAPES
    layouts: Sequence[str] = tuple(LAYOUTS)
    kinds: Sequence[str] = KINDS

    @abstractmethod
    def inputs(self, case: Case, draw: Draw) -> Inputs:
        """Random tensors of one call."""

    @abstractmethod
    def kernel(self, case: Case) -> Pooling:
        """The fused one."""

    @abstractmethod
    def oracle(self, case: Case) -> Pooling:
        """The reference's."""

    @abstractmethod
    def eager(self, case: Case) -> Pooling:
        """The one that people write in PyTorch."""

    def others(self, case: Case) -> Mapping[str, Pooling]:
        """Further implementations to compare with, by name."""
        return {}

    def __str__(self) -> str:
        return self.name


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
    def from_logits(self) -> bool:
        return self.kind == "logits"

    @property
    def extent(self) -> tuple[int, int, int]:
        """Sizes of a frame tensor in this layout."""
        shape = self.shape
        if self.dim == 1:
            return shape.batch, shape.frames, shape.classes
        return shape.batch, shape.classes, shape.frames


@dataclass(frozen=True)
class Draw:
    """Random tensors of a case's dtype."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *size: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        drawn = torch.randn(size, generator=self.generator, device=self.device)
        return (scale * drawn + mean).to(self.dtype)

    def uniform(self, *size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(size, generator=self.generator, device=self.device)
        return (low + (high - low) * drawn).to(self.dtype)

    def frame_values(self, case: Case, mean_logit: float = -1.0) -> Tensor:
        """Mostly inactive, as a detector's are."""
        logits = self.normal(*case.extent, scale=2.0, mean=mean_logit)
        return logits if case.from_logits else logits.sigmoid()


@dataclass(frozen=True)
class Inputs:
    """Tensors of one call: large ones, parameters, dL/dy, and what has no gradient."""

    frames: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    gradient: Tensor
    constants: tuple[Tensor, ...] = ()

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        return self.frames + self.parameters

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.differentiable + self.constants

    @property
    def frame_bytes(self) -> int:
        """Bytes of the large tensors."""
        return sum(tensor.nbytes for tensor in self.frames)

    def requiring_gradients(self, require: bool) -> Inputs:
        """The same memory, with gradients wanted or not."""

        def mark(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensor.detach().requires_grad_(require) for tensor in tensors)

        return replace(self, frames=mark(self.frames), parameters=mark(self.parameters))

    def double(self) -> Inputs:
        """The same values in float64."""

        def widen(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensor.detach().double() for tensor in tensors)

        return replace(
            self,
            frames=widen(self.frames),
            parameters=widen(self.parameters),
            gradient=self.gradient.double(),
        )


def make_inputs(case: Case, device: torch.device, generator: torch.Generator) -> Inputs:
    return case.operation.inputs(case, Draw(device, DTYPES[case.dtype], generator))


def select(
    operations: list[Operation],
    layouts: list[str],
    dtypes: list[str],
    kinds: list[str],
    shapes: list[str],
) -> Iterator[Case]:
    """Every combination that there is, shape by shape."""
    for shape in shapes:
        for operation in operations:
            if shape not in operation.shapes:
                continue
            for layout in (name for name in layouts if name in operation.layouts):
                for dtype in dtypes:
                    for kind in (name for name in kinds if name in operation.kinds):
                        yield Case(operation, layout, dtype, kind, SHAPES[shape])


def compiled_form(case: Case) -> Pooling:
    """The eager form under `torch.compile`, for this shape alone; nothing compiles yet."""
    torch.compiler.reset()
    return torch.compile(case.operation.eager(case), dynamic=False)


def step(function: Pooling, inputs: Inputs) -> tuple[Tensor, ...]:
    """Call the pooling; where its inputs want gradients, the backward pass too."""
    y = function(*inputs.arguments)
    if not y.requires_grad:
        return (y,)
    return y, *torch.autograd.grad(y, inputs.differentiable, inputs.gradient)


def floor(inputs: Inputs) -> list[Tensor]:
    """The traffic that no implementation can avoid, as PyTorch moves it.

    Forward: each large tensor is read once, by a sum. With gradients: each is read once and as much
    freshly allocated memory is written once, by a clone.
    """
    if inputs.frames[0].requires_grad:
        return [tensor.detach().clone() for tensor in inputs.frames]
    return [tensor.view(-1).view(torch.float32).sum() for tensor in inputs.frames]
