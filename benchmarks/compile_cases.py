"""The kernels to compile: every one of each family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from benchmarks.compile_launches import FAMILIES
from milkernels.family import WEIGHTED_AVERAGES
from milkernels.kernels.launch import Launch

LAYOUTS = ("classes_first", "frames_first")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

#: The GPU that the quick report compiles every kernel for.
_QUICK_TARGET = "sm_90"

#: Frame-level poolings with kernels of their own.
_OWN = ("max", "max_mean", "noisy_or", "log_mean_exp", "class_attention", "rank")

#: Their kernels beside forward, merge and backward.
_FURTHER = (("class_attention", "frames"), ("rank", "keys"), ("rank", "weigh"))

#: Kernels of linear attention, with all weights in one tile and without.
_OF_ROWS = {
    "linear_attention": ("forward", "backward", "merge"),
    "linear_attention_wide": ("forward", "input", "layer"),
}

#: (bags, classes, frames) whose rows are a multiple of 16 elements in both layouts, and bags so
#: long that a launch cuts them and merges the parts.
_SHAPE = (64, 528, 400)
_LONG_SHAPE = (4, 64, 32768)

#: More classes than a tile of them all holds.
_MANY_CLASSES_SHAPE = (64, 2048, 400)

#: Shapes that a kernel needs to be launched at all.
_SHAPES = {
    "merge": _LONG_SHAPE,
    "keys": _LONG_SHAPE,
    "weigh": _LONG_SHAPE,
    "frames": _MANY_CLASSES_SHAPE,
}


@dataclass(frozen=True)
class CompileCase:
    """One kernel for one GPU.

    `everything` turns on what a kernel can be compiled for: a mask, logits, gradients of learned
    parameters, an activation of the scores. `direction` is forward, merge or backward, or
    another step of a family.
    """

    target: str
    member: str
    direction: str
    layout: str
    dtype: str
    everything: bool

    @property
    def kernel(self) -> str:
        family, _ = FAMILIES[self.member]
        return f"{family}_{self.direction}"

    @property
    def reads_frames(self) -> bool:
        """Whether the kernel reads tiles of frames."""
        if self.layout == "rows":
            return False
        if self.direction == "backward":
            if self.member in ("max", "rank"):
                return self.member == "rank" and self.everything
            return self.everything or self.member not in ("mean", "max_mean")
        return self.direction in ("forward", "scores", "keys", "frames")

    @property
    def writes_frames(self) -> bool:
        return self.layout != "rows" and self.direction in ("backward", "keys")

    def launch(self) -> Launch:
        """The launch, on tensors without memory."""
        _, build = FAMILIES[self.member]
        launches = build(self, self.member)
        kernels = {
            launch.kernel.__name__: launch for launch in launches if isinstance(launch, Launch)
        }
        return kernels[f"_{self.kernel}_kernel"]

    def mask(self) -> Tensor | None:
        """A mask (bags, frames), with everything on."""
        bags, _, frames = self.frames().shape
        return self.empty(bags, frames, dtype=torch.bool) if self.everything else None

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor without memory, of the case's dtype unless told."""
        return torch.empty(shape, dtype=dtype or DTYPES[self.dtype], device="meta")

    def frames(self) -> Tensor:
        """A (bags, classes, frames) view in the case's layout."""
        bags, classes, frames = _SHAPES.get(self.direction, _SHAPE)
        if self.layout == "classes_first":
            return self.empty(bags, classes, frames)
        return self.empty(bags, frames, classes).transpose(1, 2)


def quick_cases(target: str) -> Iterator[CompileCase]:
    """On Hopper each kernel with everything on, those that reduce in their own way in both layouts,
    and the plain mean; elsewhere the weighted average and linear attention."""
    if target != _QUICK_TARGET:
        for layout, direction in product(LAYOUTS, ("forward", "backward")):
            yield CompileCase(target, "power_exp", direction, layout, "float32", True)
        yield from _cases_of_rows(target, "bfloat16")
        return
    both = ("power_exp", "noisy_or", "class_attention", "rank")
    for member in ("power_exp", *_OWN):
        layouts = LAYOUTS if member in both else LAYOUTS[:1]
        for layout, direction in product(layouts, ("forward", "backward")):
            yield CompileCase(target, member, direction, layout, "float32", True)
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for direction in ("forward", "backward"):
        yield CompileCase(target, "mean", direction, "frames_first", "float32", False)
    for member, direction in _FURTHER:
        yield CompileCase(target, member, direction, "classes_first", "float32", True)
    yield from _cases_of_embeddings(target, ("attention_stats",), "float32")
    yield from _cases_of_rows(target, "bfloat16")


def _cases_of_embeddings(
    target: str, members: tuple[str, ...], dtype: str
) -> Iterator[CompileCase]:
    for direction in ("forward", "backward"):
        for member, layout in product(members, LAYOUTS):
            yield CompileCase(target, member, direction, layout, dtype, True)
        yield CompileCase(target, "gated_fusion", direction, "classes_first", dtype, True)
    for direction in ("merge", "scores", "sum"):
        yield CompileCase(target, "attention_stats", direction, "classes_first", dtype, True)


def _cases_of_rows(target: str, dtype: str) -> Iterator[CompileCase]:
    for member, directions in _OF_ROWS.items():
        for direction in directions:
            yield CompileCase(target, member, direction, "rows", dtype, True)


def all_cases(target: str) -> Iterator[CompileCase]:
    """Every member with everything on, in both layouts and dtypes; the plain mean and families of
    their own; merges with and without moments; float64."""
    for member in (*WEIGHTED_AVERAGES, *_OWN):
        for direction in ("forward", "backward"):
            for layout, dtype in product(LAYOUTS, ("float32", "bfloat16")):
                yield CompileCase(target, member, direction, layout, dtype, True)
            if member in ("mean", *_OWN):
                yield CompileCase(target, member, direction, "frames_first", "float32", False)
    for member in ("mean", "power_exp", *_OWN):
        yield CompileCase(target, member, "merge", "classes_first", "float32", True)
    for member in ("power_exp", *_OWN):
        for direction in ("forward", "merge", "backward"):
            # In float64 no bag is ranked by one kernel.
            if (member, direction) != ("rank", "forward"):
                yield CompileCase(target, member, direction, "classes_first", "float64", True)
    for (member, direction), dtype in product(_FURTHER, DTYPES):
        yield CompileCase(target, member, direction, "frames_first", dtype, True)
    for dtype in ("float32", "bfloat16"):
        yield from _cases_of_embeddings(target, ("attention_stats", "weighted_stats"), dtype)
        yield from _cases_of_rows(target, dtype)
    for direction in ("forward", "backward"):
        yield CompileCase(target, "attention_stats", direction, "classes_first", "float64", True)
        if not target.startswith("gfx"):
            # On AMD's the launches of full precision are others: the matrix units have it.
            yield CompileCase(target, "linear_attention", direction, "rows", "float32", False)
