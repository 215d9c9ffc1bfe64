"""Swap every head that is recognised inside a model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from milkernels.compat import desed
from milkernels.compat.abmil import GatedAttention
from milkernels.compat.att_block import AttBlock, AttBlockV2
from milkernels.compat.head import Head
from milkernels.compat.speechbrain import AttentiveStatisticsPooling

_HEADS: tuple[type[Head], ...] = (
    AttBlock,
    AttBlockV2,
    AttentiveStatisticsPooling,
    GatedAttention,
)


@dataclass(frozen=True)
class Replaced:
    """A head that was swapped: its path in the model, what it was and what it is."""

    path: str
    original: str
    head: str


@dataclass(frozen=True)
class Kept:
    """A module that looks like a head and was left alone, and why."""

    path: str
    original: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `replace` did."""

    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        lines = [f"replaced {one.path}: {one.original} -> {one.head}" for one in self.replaced]
        lines += [f"kept {one.path}: {one.original}: {one.reason}" for one in self.kept]
        return "\n".join(lines) or "no head was recognised"


def replace(model: nn.Module, need_weights: bool = True) -> Report:
    """Swap, in place, every head of `model` that a class of `milkernels.compat` reproduces.

    A module with the parts of a known head is compared with ours on random input, in float64 on a
    copy, and becomes ours only if both agree. It keeps its parameters, buffers, hooks and mode:
    optimisers and checkpoints go on as they are. The head of a DESED CRNN is swapped inside it, and
    then padded frames count for nothing (`DESEDHead`).

    Args:
        model: any module; the model itself may be a head.
        need_weights: let AttBlock and AttBlockV2 return their attention weights, as the originals
            do. Without them they return None in their place and are faster.

    Returns:
        A report of what was replaced and of what looked like a head and was kept, with the reason.

    Raises:
        TypeError: if `model` is no module.

    >>> print(replace(torch.nn.Linear(64, 17)))
    no head was recognised
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    replaced: list[Replaced] = []
    kept: list[Kept] = []
    for path, module in list(model.named_modules()):
        if isinstance(module, (*_HEADS, desed.DESEDHead)):
            continue
        original = type(module).__qualname__
        name, problem = _take_over(module, need_weights)
        if name is not None:
            replaced.append(Replaced(path or "the model", original, name))
        elif problem is not None:
            kept.append(Kept(path or "the model", original, problem))
    return Report(tuple(replaced), tuple(kept))


def _take_over(module: nn.Module, need_weights: bool) -> tuple[str | None, str | None]:
    """The head that `module` became, or why it became none; neither if it resembles none."""
    problems = []
    for head in _HEADS:
        if not head.resembles(module):
            continue
        problem = _problem(module, head)
        if problem is None:
            head.take_over(module, need_weights)
            return head.__qualname__, None
        problems.append(problem)
    if desed.resembles(module):
        problem = desed.problem(module)
        if problem is None:
            desed.take_over(module)
            return "DESEDHead", None
        problems.append(problem)
    return None, "; ".join(problems) or None


def _problem(module: nn.Module, head: type[Head]) -> str | None:
    """Why `head` cannot take over the module, or None if it can."""
    unknown = head.unknown_parts(module)
    if unknown:
        return f"has parts that {head.__qualname__} does not know: {', '.join(unknown)}"
    try:
        theirs = _without_hooks(deepcopy(module)).cpu().double().eval()
        ours = deepcopy(theirs)
        head.take_over(ours, need_weights=True)
        example = head.example(theirs)
        with torch.no_grad():
            expected, got = _outputs(theirs(*example)), _outputs(ours(*example))
    except Exception as error:
        return f"could not be compared with {head.__qualname__}: {error}"
    same = len(expected) == len(got) and all(
        one.shape == two.shape and torch.allclose(one, two, rtol=1e-7, atol=1e-9)
        for one, two in zip(expected, got, strict=True)
    )
    return None if same else f"gives other numbers than {head.__qualname__}"


def _without_hooks(copy: nn.Module) -> nn.Module:
    """Hooks see the model's calls, not ours; those before a layer may make its weight, and stay."""
    for module in copy.modules():
        module._forward_hooks.clear()
    copy._forward_pre_hooks.clear()
    return copy


def _outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]
