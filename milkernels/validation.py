"""Checks of arguments: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, SCORE_AXES

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def frame_dim(dim: int) -> int:
    """The frame axis as 1 or 2."""
    if isinstance(dim, (bool, float)) or dim not in (-1, -2, 1, 2):
        raise ValueError(
            f"dim: expected -1 or 2 for (batch, classes, frames), 1 for (batch, frames, classes), "
            f"got {dim!r}"
        )
    return dim if dim > 0 else dim + 3


def logits_flag(from_logits: bool) -> None:
    if not isinstance(from_logits, bool):
        raise TypeError(f"from_logits: expected True or False, got {shown(from_logits)}")


def frame_values(x: Tensor, dim: int) -> tuple[int, int, int]:
    """Check `x` and return its (bags, classes, frames)."""
    floating("x", x)
    shape = x.shape
    if len(shape) != 3:
        layout = "(batch, classes, frames)" if dim == 2 else "(batch, frames, classes)"
        raise ValueError(f"x: expected 3 dimensions {layout}, got shape {tuple(shape)}")
    return shape[0], shape[3 - dim], shape[dim]


def floating(name: str, tensor: Tensor, nested: bool = False) -> None:
    """Check a dense floating tensor, which may be nested if `nested`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{name}: expected a float64, float32, bfloat16 or float16 tensor, got {tensor.dtype}"
        )
    if tensor.is_nested:
        if not nested:
            raise TypeError(
                f"{name}: expected bags of one length, got a nested tensor, which pool_packed takes"
            )
    elif tensor.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {tensor.layout}")


def packed_values(x: Tensor) -> tuple[int, int]:
    """Check concatenated instances and return their (instances, classes)."""
    floating("x", x)
    if x.dim() != 2:
        raise ValueError(f"x: expected 2 dimensions (instances, classes), got {tuple(x.shape)}")
    return x.shape[0], x.shape[1]


def bag_offsets(offsets: Tensor | None, device: torch.device) -> Tensor:
    """Where packed bags begin, checked but for the values."""
    if not isinstance(offsets, Tensor):
        raise TypeError(f"offsets: expected a tensor, got {type(offsets).__name__}")
    if offsets.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"offsets: expected an int32 or int64 tensor, got {offsets.dtype}")
    if offsets.dim() != 1 or offsets.shape[0] == 0:
        raise ValueError(f"offsets: expected shape (bags + 1,), got {tuple(offsets.shape)}")
    same_device("offsets", offsets, device)
    return offsets


def offset_values(offsets: Tensor, instances: int) -> None:
    """Check the values of offsets on the CPU: from 0 to the number of instances, never falling."""
    last = offsets.shape[0] - 1
    if offsets[0] != 0:
        raise ValueError(f"offsets: expected 0 at position 0, got {offsets[0].item()}")
    if offsets[last] != instances:
        raise ValueError(
            f"offsets: expected the number of instances {instances} at position {last}, got "
            f"{offsets[last].item()}"
        )
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        position = int(falls.nonzero()[0]) + 1
        raise ValueError(
            f"offsets: expected at least {offsets[position - 1].item()}, the one before, at "
            f"position {position}, got {offsets[position].item()}"
        )


def mask_of(
    mask: Tensor | None, bags: int, frames: int, device: torch.device, of: str = "x"
) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise _no_flags("mask", mask, "real frame")
    _shape("mask", mask, (bags, frames), "(batch, frames)")
    same_device("mask", mask, device, of)


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


def bag_labels(target: Tensor, bags: int, classes: int, device: torch.device) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected a tensor, got {type(target).__name__}")
    if target.dtype.is_complex:
        raise TypeError(f"target: expected real, integer or bool labels, got {target.dtype}")
    _shape("target", target, (bags, classes), "(batch, classes)")
    same_device("target", target, device)


def label_weight(weight: Tensor | None, bags: int, classes: int, device: torch.device) -> None:
    if weight is None:
        return
    floating("weight", weight)
    sizes = zip(reversed(weight.shape), (classes, bags), strict=False)
    if weight.dim() > 2 or any(size not in (1, whole) for size, whole in sizes):
        raise ValueError(
            f"weight: expected a shape that broadcasts to {(bags, classes)}, (batch, classes), got "
            f"{tuple(weight.shape)}"
        )
    same_device("weight", weight, device)


def label_mask(mask: Tensor | None, bags: int, classes: int, device: torch.device) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise _no_flags("label_mask", mask, "known")
    _shape("label_mask", mask, (bags, classes), "(batch, classes)")
    same_device("label_mask", mask, device)


def broadcast_mask(
    name: str, mask: Tensor, true: str, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> None:
    """Check a mask that has all axes of one of the shapes, which are given by their axes' names,
    and whose sizes are theirs or 1. `true` is what its True says."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise _no_flags(name, mask, true)
    given = tuple(mask.shape)
    if not any(
        len(given) == len(shape)
        and all(size in (1, whole) for size, whole in zip(given, shape, strict=True))
        for shape in shapes.values()
    ):
        expected = " or ".join(f"{shape}, {axes}," for axes, shape in shapes.items())
        raise ValueError(f"{name}: expected a shape that broadcasts to {expected} got {given}")
    same_device(name, mask, device)


def relative_lengths(lengths: Tensor, bags: int) -> None:
    """Check lengths of bags, or one for all."""
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths: expected a tensor, got {type(lengths).__name__}")
    if lengths.dtype.is_complex:
        raise TypeError(f"lengths: expected real numbers, got {lengths.dtype}")
    if tuple(lengths.shape) not in ((bags,), (1,)):
        raise ValueError(f"lengths: expected shape {(bags,)}, (batch,), got {tuple(lengths.shape)}")


def layer_parameter(name: str, parameter: Tensor, shape: tuple[int, ...], z: Tensor) -> None:
    """Check a weight or bias of a linear layer from z's last axis to as many outputs."""
    floating(name, parameter)
    _shape(name, parameter, shape, "as z's last axis asks")
    same_device(name, parameter, z.device, "z")


def one_of(name: str, value: object, expected: tuple[object, ...]) -> None:
    if not isinstance(value, (str, type(None))) or value not in expected:
        choices = ", ".join(map(repr, expected))
        raise ValueError(f"{name}: expected one of {choices}, got {shown(value)}")


def attention_scores(scores: Tensor, x: Tensor) -> None:
    floating("scores", scores)
    _shape("scores", scores, tuple(x.shape), "x's shape")
    if scores.dtype != x.dtype:
        raise TypeError(f"scores: expected x's dtype {x.dtype}, got {scores.dtype}")
    same_device("scores", scores, x.device)


def score_activation(activation: str | None) -> None:
    one_of("score_activation", activation, SCORE_ACTIVATIONS)


def score_axis(axis: str) -> None:
    if axis not in SCORE_AXES:
        expected = " or ".join(repr(name) for name in SCORE_AXES)
        raise ValueError(f"normalize: expected {expected}, got {axis!r}")


def decay(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"decay: expected a float in [0, 1], got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"decay: expected a float in [0, 1], got {value!r}")


def same_device(name: str, tensor: Tensor, device: torch.device, of: str = "x") -> None:
    """Check that a tensor is on the device of the one that is called `of`."""
    if tensor.device != device:
        raise ValueError(
            f"{name}: expected a tensor on {of}'s device {device}, got {tensor.device}"
        )


def embeddings(h: Tensor, dim: int) -> tuple[int, int, int]:
    """Check frame embeddings and return their (bags, channels, frames)."""
    floating("h", h)
    if h.dim() != 3:
        layout = "(batch, channels, frames)" if dim == 2 else "(batch, frames, channels)"
        raise ValueError(f"h: expected 3 dimensions {layout}, got shape {tuple(h.shape)}")
    return h.shape[0], h.shape[3 - dim], h.shape[dim]


def embedding_channels(h: Tensor, channels: int, dim: int) -> None:
    """Check that frame embeddings have the channels that a module was built for."""
    dim = frame_dim(dim)
    _, given, frames = embeddings(h, dim)
    if given != channels:
        axis, shape = 3 - dim, tuple(h.shape)
        hint = f", frame_dim={axis} takes the other layout" if frames == channels else ""
        raise ValueError(f"h: expected {channels} channels on axis {axis}, got shape {shape}{hint}")


def head_queries(query: Tensor, channels: int, device: torch.device) -> None:
    floating("query", query)
    if query.dim() != 2 or query.shape[0] == 0 or query.numel() != channels:
        raise ValueError(
            f"query: expected shape (heads, D / heads) for h's D = {channels} channels, got "
            f"{tuple(query.shape)}"
        )
    same_device("query", query, device, "h")


def head_scores(scores: Tensor, h: Tensor, dim: int) -> None:
    floating("scores", scores)
    channels, frames = h.shape[3 - dim], h.shape[dim]
    sizes = f"({h.shape[0]}, heads, {frames})" if dim == 2 else f"({h.shape[0]}, {frames}, heads)"
    fits = scores.dim() == 3 and (scores.shape[0], scores.shape[dim]) == (h.shape[0], frames)
    heads = scores.shape[3 - dim] if fits else 0
    if not fits or heads == 0 or channels % heads:
        raise ValueError(
            f"scores: expected shape {sizes} with heads that divide h's {channels} channels, got "
            f"{tuple(scores.shape)}"
        )
    if scores.dtype != h.dtype:
        raise TypeError(f"scores: expected h's dtype {h.dtype}, got {scores.dtype}")
    same_device("scores", scores, h.device, "h")


def gated_embedding(c: Tensor, weight: Tensor, bias: Tensor) -> None:
    floating("c", c)
    if c.dim() != 2:
        raise ValueError(f"c: expected 2 dimensions (batch, N), got shape {tuple(c.shape)}")
    width = c.shape[1]
    for name, parameter, shape, meaning in (
        ("weight", weight, (width, width), "(N, N)"),
        ("bias", bias, (width,), "(N,)"),
    ):
        floating(name, parameter)
        _shape(name, parameter, shape, meaning)
        same_device(name, parameter, c.device, "c")


def shown(value: object) -> str:
    """What came, in a line."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def number(name: str, value: float, least: float = -math.inf) -> None:
    """Check a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    if not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{name}: expected a finite number{bound}, got {value}")


def count(name: str, value: int, least: int = 0) -> None:
    """Check a number of things, such as classes."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def scored_features(features: Tensor, width: int, x: Tensor, dim: int) -> None:
    """Check the features of x's frames, which scores are computed from."""
    bags, _, frames = frame_values(x, dim)
    floating("features", features)
    _shape("features", features, (bags, frames, width), "(batch, frames, in_features)")
    same_device("features", features, x.device)


def variance_floor(eps: float) -> float:
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a finite number of at least 0, got {eps}")
    return float(eps)


def _no_flags(name: str, given: object, true: str) -> TypeError:
    came = given.dtype if isinstance(given, Tensor) else type(given).__name__
    return TypeError(f"{name}: expected a bool tensor (True = {true}), got {came}")


def _shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, {meaning}, got {tuple(tensor.shape)}")
