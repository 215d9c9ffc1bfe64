"""The weights behind a pooling, for looking at and for localisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from milkernels import reference, validation
from milkernels.functional import pooling_arguments


def frame_weights(
    name: str,
    x: Tensor,
    *parameters: Any,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
    **options: Any,
) -> Tensor:
    """Each frame's share in its bag: the normalised weights, in x's shape, layout and dtype.

    A share is at least 0; a bag's sum to 1 over its real frames, and masked frames have 0, as has
    every frame of an empty bag. A weighted average's are its weights p_i, the rank and log-mean-exp
    poolings' too. `max` gives 1 to the first maximum, `max_mean` half of it, beside half of the
    mean's. `noisy_or` gives log(1 - x_i) / Σ log(1 - x_j): what the frame adds to the bag's
    evidence.

    Nothing else stores these weights. They are computed in plain PyTorch on every backend, and are
    differentiable.

    Args:
        name: the pooling's function without `_pool`.
        x: frame values, as the function takes them.
        parameters: what the function takes after x, `scores` or `power` for instance.
        dim: the frame axis, as in the function.
        mask: as in the function.
        from_logits: as in the function.
        options: the function's other keywords, as `normalize="classes"`.

    Raises:
        ValueError, TypeError: for an unknown name, and what the function itself refuses.

    >>> frame_weights("linear_softmax", torch.tensor([[[0.2, 0.6]]]))
    tensor([[[0.2500, 0.7500]]])
    """
    if not isinstance(name, str) or name not in reference.FRAME_WEIGHTS:
        expected = ", ".join(reference.FRAME_WEIGHTS)
        raise ValueError(f"name: expected one of {expected}, got {name!r}")
    given = pooling_arguments.named(name, parameters, options)
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, classes, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    pooling_arguments.check(given, x, classes)
    return reference.frame_weights(name, x, dim=dim, mask=mask, from_logits=from_logits, **given)
