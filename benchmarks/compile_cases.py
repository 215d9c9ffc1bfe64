"""The kernels to compile: every one of each family, at the configuration that its launch pins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from benchmarks.compile_launches import DTYPES, FEW_CLASSES, LAYOUTS, CompileCase
from milkernels.family import WEIGHTED_AVERAGES

#: The GPU that the quick report compiles every kernel for.
_QUICK_TARGET = "sm_90"

#: Frame-level poolings with kernels of their own.
_OWN = ("max", "max_mean", "noisy_or", "log_mean_exp", "class_attention", "rank")

#: Their kernels beside forward, merge and backward.
_FURTHER = (("class_attention", "frames"), ("rank", "keys"), ("rank", "weigh"))

#: Poolings whose kernel has the loss inside, one of each family.
_WITH_LOSS = ("power_exp_bce", "max_bce", "noisy_or_bce", "log_mean_exp_bce")

#: A pooling of each family that has kernels over bags of different lengths.
_PACKED = ("power_exp", "max_mean", "noisy_or", "log_mean_exp")

#: The kernels whose threads want the most registers: member, direction and dtype.
_CROWDED = (
    ("power", "forward", "bfloat16"),
    ("attention_stats", "forward", "float32"),
    ("class_attention", "forward", "float32"),
    ("power_exp_bce", "bce", "float32"),
    ("noisy_or_bce", "bce", "float32"),
    ("packed_max_mean", "forward", "float64"),
)

#: Kernels of linear attention, with all weights in one tile and without.
_OF_ROWS = {
    "linear_attention": ("forward", "input", "layer", "merge"),
    "linear_attention_wide": ("forward", "input", "layer"),
}


def quick_cases(target: str) -> Iterator[CompileCase]:
    """On Hopper each kernel with everything on, those that reduce in their own way in both layouts,
    and the plain mean; elsewhere the weighted average, linear attention and the kernels that take
    the most registers."""
    if target != _QUICK_TARGET:
        for layout, direction in product(LAYOUTS, ("forward", "backward")):
            yield CompileCase(target, "power_exp", direction, layout, "float32", True)
        yield from _cases_of_rows(target)
        for member, direction, dtype in _CROWDED:
            yield CompileCase(target, member, direction, "frames_first", dtype, True)
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
    yield from _cases_of_few_classes(target, ("float32",))
    yield from _cases_with_loss(target, ("float32",))
    yield from _cases_of_packed(target, ("float32",))
    yield from _cases_of_embeddings(target, ("attention_stats",), "float32")
    yield from _cases_of_rows(target)


def smallest_cases(target: str) -> Iterator[CompileCase]:
    """The quick report's kernels where every size is 1: constants to the compiler then."""
    for case in quick_cases(target):
        yield replace(case, smallest=True)


def _cases_of_few_classes(target: str, dtypes: Iterable[str]) -> Iterator[CompileCase]:
    """One of each family whose tiles are cut for any shape."""
    for member, direction, dtype in product(_PACKED, ("forward", "backward"), dtypes):
        yield CompileCase(target, member, direction, FEW_CLASSES, dtype, True)


def _cases_with_loss(target: str, dtypes: tuple[str, ...]) -> Iterator[CompileCase]:
    for member, layout, dtype in product(_WITH_LOSS, LAYOUTS, dtypes):
        yield CompileCase(target, member, "bce", layout, dtype, True)
    for direction, dtype in product(("loss", "scale"), dtypes):
        yield CompileCase(target, "rank_bce", direction, "classes_first", dtype, True)


def _cases_of_packed(target: str, dtypes: Iterable[str]) -> Iterator[CompileCase]:
    """One of each family over bags of different lengths."""
    for name, direction, dtype in product(_PACKED, ("forward", "merge", "backward"), dtypes):
        yield CompileCase(target, f"packed_{name}", direction, "frames_first", dtype, True)


def _cases_of_embeddings(
    target: str, members: tuple[str, ...], dtype: str
) -> Iterator[CompileCase]:
    for direction in ("forward", "backward"):
        for member, layout in product(members, LAYOUTS):
            yield CompileCase(target, member, direction, layout, dtype, True)
        yield CompileCase(target, "gated_fusion", direction, "classes_first", dtype, True)
    for direction in ("merge", "scores", "sum"):
        yield CompileCase(target, "attention_stats", direction, "classes_first", dtype, True)


def _cases_of_rows(target: str, everywhere: bool = False) -> Iterator[CompileCase]:
    """In bfloat16, and float32 in full precision, which takes the most registers."""
    for member, directions in _OF_ROWS.items():
        for direction in directions:
            yield CompileCase(target, member, direction, "rows", "bfloat16", True)
            if direction in ("input", "layer") or everywhere:
                yield CompileCase(target, member, direction, "rows", "float32", False)
            if everywhere:
                yield CompileCase(target, member, direction, "rows", "float32", True)
    if everywhere:
        for direction in _OF_ROWS["linear_attention_wide"]:
            yield CompileCase(target, "linear_attention_wide", direction, "rows", "float64", False)


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
    yield from _cases_of_few_classes(target, DTYPES)
    yield from _cases_with_loss(target, tuple(DTYPES))
    yield from _cases_of_packed(target, DTYPES)
    for dtype in ("float32", "bfloat16"):
        yield from _cases_of_embeddings(target, ("attention_stats", "weighted_stats"), dtype)
    for direction in ("forward", "backward"):
        yield CompileCase(target, "attention_stats", direction, "classes_first", "float64", True)
    yield from _cases_of_rows(target, everywhere=True)
