"""Concatenated bags for each pooling, one way to run them, and their eager form."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from budget import naive_form
from cases import make_case
from torch import Tensor

#: Empty bags at the start, in the middle and at the end, one of one instance, others ragged.
RAGGED = (0, 1, 17, 0, 0, 3, 64, 5, 130, 2, 0)


@dataclass
class PackedCase:
    """A pooling's instances, offsets, further tensors and keywords."""

    name: str
    offsets: Tensor
    tensors: list[Tensor]
    keywords: dict[str, object]

    def to(self, dtype: torch.dtype) -> PackedCase:
        tensors = [tensor.to(dtype) for tensor in self.tensors]
        return PackedCase(self.name, self.offsets, tensors, self.keywords)

    def bag_gradient(self) -> Tensor:
        """A dL/dy with both signs that every dtype holds exactly."""
        x = self.tensors[0]
        shape = (self.offsets.shape[0] - 1, x.shape[1])
        values = torch.arange(shape[0] * shape[1], device=x.device) % 7 - 3
        return values.reshape(shape).to(x.dtype)

    def run(self, module: object) -> list[Tensor]:
        """Bag values, then the gradients of the case's tensors."""
        return self.run_function(module.pool_packed)

    def run_function(self, function) -> list[Tensor]:
        x, *rest = tensors = [tensor.detach().requires_grad_() for tensor in self.tensors]
        y = function(self.name, x, self.offsets, *rest, **self.keywords)
        return [y.detach(), *torch.autograd.grad(y, tensors, self.bag_gradient())]


def make_packed(
    pooling: str,
    lengths: tuple[int, ...] = RAGGED,
    classes: int = 5,
    *,
    from_logits: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: object,
) -> PackedCase:
    case = make_case(
        pooling, 1, classes, sum(lengths), dim=1, from_logits=from_logits, dtype=dtype, **options
    )
    tensors = [tensor[0] if tensor.dim() == 3 else tensor for tensor in case.tensors]
    if pooling == "noisy_or":
        likely = torch.rand(tensors[0].shape) * 0.3
        tensors[0] = (likely.clamp(min=1e-6).logit() if from_logits else likely).to(dtype)
    keywords = {key: value for key, value in case.keywords.items() if key != "dim"}
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    name = "attention" if pooling == "class_attention" else pooling
    return PackedCase(name, offsets.to(device), [tensor.to(device) for tensor in tensors], keywords)


def naive_packed(pooling: str, from_logits: bool):
    """Eager PyTorch, bag after bag; 0 for an empty one."""
    pool = naive_form(pooling, 1, from_logits)

    def run(_, x, offsets, *rest, **keywords):
        values = [x[:0] + sum(tensor[:0].sum() for tensor in rest)]
        for first, last in pairwise(offsets.tolist()):
            bag = [
                tensor[None, first:last] if tensor.dim() == 2 else tensor for tensor in (x, *rest)
            ]
            values.append(pool(*bag) if last > first else x[first:last].sum(0, keepdim=True))
        return torch.cat(values)

    return run
