"""What a drop-in head tells `replace` about itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """Base of the drop-in heads that take over another module where it stands: its parameters,
    buffers, hooks and place in the model stay, its class changes."""

    #: Children that the original has, and those that some versions of it have beside.
    parts: tuple[str, ...] = ()
    optional_parts: tuple[str, ...] = ()

    @classmethod
    def resembles(cls, module: nn.Module) -> bool:
        """Whether `module` has the original's parts, of the right kinds."""
        return all(hasattr(module, name) for name in cls.parts)

    @classmethod
    def unknown_parts(cls, module: nn.Module) -> list[str]:
        """Children of `module` that the original does not have."""
        known = {*cls.parts, *cls.optional_parts}
        return [name for name, _ in module.named_children() if name not in known]

    @classmethod
    @abstractmethod
    def example(cls, module: Any) -> tuple[Any, ...]:
        """Arguments to compare the original with the head on, in float64, on the CPU."""

    @classmethod
    def take_over(cls, module: Any, need_weights: bool) -> None:
        """Make `module` this head."""
        module.__class__ = cls
        module.need_weights = need_weights


def is_pointwise(module: nn.Module | None) -> bool:
    """Whether a module is a convolution of one frame: a linear layer over channels."""
    return isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1


def wide(*shape: int, scale: float = 1.0) -> Tensor:
    """Random numbers in float64 from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)
