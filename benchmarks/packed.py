"""Bags of different lengths: packed in one call, or pooled one by one."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from benchmarks import eager
from benchmarks.cases import Case, Draw, Inputs, Operation, Pooling
from benchmarks.frame_level import FrameLevel
from milkernels import functional, reference


@dataclass(frozen=True)
class Packed(Operation):
    """A pooling of bags whose lengths spread over two powers of ten."""

    pooling: FrameLevel

    shapes = ("dcase", "slides")
    layouts = ("frames_first",)
    kinds = ("logits",)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"packed_{self.pooling.name}"

    @property
    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.pooling.arguments

    def inputs(self, case: Case, draw: Draw) -> Inputs:
        inputs = self.pooling.inputs(case, draw)
        bags = case.shape.batch * 4
        instances = case.shape.batch * case.shape.frames
        shares = 10 ** torch.linspace(-2, 0, bags)
        # None is empty: that is NaN to the eager forms.
        lengths = (shares / shares.sum() * instances).long().clamp(min=1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        offsets[-1] = instances
        return Inputs(
            tuple(frames.flatten(0, 1) for frames in inputs.frames),
            inputs.parameters,
            draw.normal(bags, case.shape.classes),
            (offsets.to(draw.device),),
        )

    def kernel(self, case: Case) -> Pooling:
        return self._of(functional, case)

    def oracle(self, case: Case) -> Pooling:
        return self._of(reference, case)

    def _of(self, module: ModuleType, case: Case) -> Pooling:
        def pool(x: Tensor, *rest: Tensor) -> Tensor:
            *parameters, offsets = rest
            return module.pool_packed(
                self.pooling.name, x, offsets, *parameters, from_logits=case.from_logits
            )

        return pool

    def eager(self, case: Case) -> Pooling:
        """Bag by bag, as slides are."""
        one = getattr(eager, self.pooling.name)

        def pool(x: Tensor, *rest: Tensor) -> Tensor:
            *parameters, offsets = rest
            lengths = offsets.diff().tolist()
            bags = (x.sigmoid() if case.from_logits else x).split(lengths)
            return torch.cat([one(bag[None], *parameters, dim=1) for bag in bags])

        return pool
