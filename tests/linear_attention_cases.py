"""Rows and two linear layers for attention over a row, one way to run it, and its eager form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from milkernels import functional, reference

VARIANTS = ("paper", "code")


def make_inputs(width: int, *rows: int, dtype=torch.float32, device="cpu") -> list[Tensor]:
    """z (*rows, width), then weight and bias of the attention and of the class layer."""
    tensors = [torch.randn(*rows, width)]
    for _ in range(2):
        tensors += [torch.randn(width, width) * 2 / width**0.5, torch.randn(width)]
    return [tensor.to(device, dtype) for tensor in tensors]


def row_gradient(z: Tensor) -> Tensor:
    """A dL/dy with both signs that every dtype holds exactly."""
    shape = z.shape[:-1]
    values = torch.arange(shape.numel(), device=z.device) % 7 - 3
    return values.reshape(shape).to(z.dtype)


def run(function, tensors: list[Tensor], variant: str, dtype=None) -> list[Tensor]:
    """Values, then every gradient."""
    tensors = [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]
    y = function(*tensors, variant)
    return [y.detach(), *torch.autograd.grad(y, tensors, row_gradient(tensors[0]))]


def pool(*arguments) -> Tensor:
    return functional.linear_attention_pool(*arguments)


def truth(tensors: list[Tensor], variant: str) -> list[Tensor]:
    return run(reference.linear_attention_pool, tensors, variant, torch.float64)


def naive(z, att_weight, att_bias, cla_weight, cla_bias, variant):
    """As people write it in eager PyTorch."""
    attention, values = linear(z, att_weight, att_bias), linear(z, cla_weight, cla_bias)
    if variant == "paper":
        return (torch.softmax(torch.sigmoid(attention), -1) * values).sum(-1)
    return (torch.softmax(attention, -1) * torch.sigmoid(values)).sum(-1)
