"""Checks of arguments: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def frame_dim(dim: int) -> int:
    """The frame axis as 1 or 2."""
    if dim not in (-1, -2, 1, 2):
        raise ValueError(
            f"dim: expected -1 or 2 for (batch, classes, frames), 1 for (batch, frames, classes), "
            f"got {dim!r}"
        )
    return dim if dim > 0 else dim + 3


def frame_values(x: Tensor, dim: int) -> tuple[int, int, int]:
    """Check `x` and return its (bags, classes, frames)."""
    floating("x", x)
    if x.dim() != 3:
        layout = "(batch, classes, frames)" if dim == 2 else "(batch, frames, classes)"
        raise ValueError(f"x: expected 3 dimensions {layout}, got shape {tuple(x.shape)}")
    return x.shape[0], x.shape[3 - dim], x.shape[dim]


def floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{name}: expected a float64, float32, bfloat16 or float16 tensor, got {tensor.dtype}"
        )


def mask_of(mask: Tensor | None, bags: int, frames: int, device: torch.device) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a bool tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a bool tensor (True = real frame), got {mask.dtype}")
    _shape("mask", mask, (bags, frames), "(batch, frames)")
    same_device("mask", mask, device)


def class_parameter(name: str, parameter: Tensor, classes: int, device: torch.device) -> None:
    floating(name, parameter)
    _shape(name, parameter, (classes,), "(classes,)")
    same_device(name, parameter, device)


def sharpness(value: float | Tensor, classes: int, device: torch.device) -> None:
    if isinstance(value, Tensor):
        class_parameter("sharpness", value, classes, device)
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"sharpness: expected a number or a tensor, got {type(value).__name__}")
    elif value == 0 or not math.isfinite(value):
        raise ValueError(f"sharpness: expected a finite number other than 0, got {value}")


def layer_parameter(name: str, parameter: Tensor, shape: tuple[int, ...], z: Tensor) -> None:
    """Check a weight or bias of a linear layer from z's last axis to as many outputs."""
    floating(name, parameter)
    _shape(name, parameter, shape, "as z's last axis asks")
    same_device(name, parameter, z.device, "z")


def one_of(name: str, value: object, expected: tuple[object, ...]) -> None:
    if value not in expected:
        choices = ", ".join(map(repr, expected))
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def attention_scores(scores: Tensor, x: Tensor) -> None:
    floating("scores", scores)
    _shape("scores", scores, tuple(x.shape), "x's shape")
    if scores.dtype != x.dtype:
        raise TypeError(f"scores: expected x's dtype {x.dtype}, got {scores.dtype}")
    same_device("scores", scores, x.device)


def score_activation(activation: str | None) -> None:
    one_of("score_activation", activation, SCORE_ACTIVATIONS)


def same_device(name: str, tensor: Tensor, device: torch.device, of: str = "x") -> None:
    if tensor.device != device:
        raise ValueError(
            f"{name}: expected a tensor on {of}'s device {device}, got {tensor.device}"
        )


def _shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, {meaning}, got {tuple(tensor.shape)}")
