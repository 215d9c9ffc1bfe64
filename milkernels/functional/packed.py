"""Poolings of bags of different lengths, without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve
from milkernels.family import POOLING_PARAMETERS
from milkernels.functional import pooling_arguments
from milkernels.functional.log_mean_exp import sharpness_per_class
from milkernels.packing import is_shape_alone, pack


def pool_packed(
    name: str,
    x: Tensor,
    offsets: Tensor | None = None,
    *parameters: Any,
    from_logits: bool = False,
    **options: Any,
) -> Tensor:
    """A frame-level pooling of bags of different lengths: y_b pools x[offsets[b]:offsets[b + 1]].

    Each bag's value (bags, classes) and gradients are those of the pooling's own function on the
    bag alone, (1, length, classes) with `dim=1`. Bags may hold from no instance, which gives 0 and
    no gradient, to millions: long ones are shared out, short ones taken together.

    Args:
        name: the pooling's function without `_pool`.
        x: the instances of all bags one after the other, (instances, classes); or a nested tensor
            (bags, ragged, classes) without `offsets`. One of `layout=torch.jagged` is taken as it
            lies, others are copied.
        offsets: (bags + 1,) int32 or int64 on x's device, from 0 to the number of instances, never
            falling. On the CPU its values are checked. On a GPU that would wait for it: there,
            offsets are clamped into x, so that wrong ones give meaningless values, and reach no
            other memory.
        parameters: what the function takes after x: `power` (classes,) for instance, or `scores`,
            of x's shape and nested if x is.
        from_logits: as in the function.
        options: the function's other keywords, as `score_activation` or `normalize`.

    On a GPU rank pooling and attention over classes compute their weights in plain PyTorch first,
    and hold them.

    Raises:
        ValueError, TypeError: for an unknown name, wrong offsets, and what the function refuses.

    >>> values = torch.tensor([[0.2], [0.6], [0.9]])  # three instances of one class
    >>> pool_packed("mean", values, offsets=torch.tensor([0, 2, 3]))
    tensor([[0.4000],
            [0.9000]])
    """
    validation.one_of("name", name, tuple(POOLING_PARAMETERS))
    arguments = pooling_arguments.named(name, parameters, options)
    if isinstance(x, Tensor) and x.is_nested:
        if offsets is not None:
            raise ValueError("offsets: expected None with a nested x, which has its own")
        x, offsets = pack("x", x)
        if "scores" in arguments:
            arguments["scores"] = _nested_scores(arguments["scores"], offsets)
    _, classes = validation.packed_values(x)
    offsets = validation.bag_offsets(offsets, x.device)
    validation.logits_flag(from_logits)
    pooling_arguments.check(arguments, x, classes)
    chosen = resolve(x.device)
    if chosen == "reference":
        if not is_shape_alone(offsets):
            validation.offset_values(offsets, x.shape[0])
        return reference.pool_packed(name, x, offsets, from_logits=from_logits, **arguments)
    if name == "attention" and arguments.pop("normalize", "frames") == "classes":
        name = "class_attention"
    if name == "log_mean_exp":
        arguments["sharpness"] = sharpness_per_class(arguments["sharpness"], x, classes)
    return ops.packed(name, x, offsets, from_logits=from_logits, backend=chosen, **arguments)


def _nested_scores(scores: Tensor, offsets: Tensor) -> Tensor:
    """The values of nested scores, whose bags are as long as x's."""
    validation.floating("scores", scores, nested=True)
    if not scores.is_nested:
        raise TypeError("scores: expected a nested tensor as x is, got one that is not")
    values, own = pack("scores", scores)
    if own is not offsets and (
        own.shape != offsets.shape
        or (
            own.device.type == "cpu" == offsets.device.type
            and not is_shape_alone(own)
            and not torch.equal(own, offsets)
        )
    ):
        raise ValueError("scores: expected bags as long as x's, got others")
    return values
