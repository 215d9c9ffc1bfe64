"""What the systems are trained to make small, in float32 and finite for every finite input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

#: As in PyTorch, the least that a gradient is divided by.
_LEAST = 1e-12


def clip_loss(clip: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of clips.

    Args:
        clip: (batch, classes) probabilities of any floating type.
        target: (batch, classes) from 0 to 1.
    """
    return _cross_entropy(clip, target).mean()


def frame_loss(frame: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of real frames; 0 where there is none.

    Args:
        frame: (batch, frames, classes) probabilities of any floating type.
        target: (batch, frames, classes) from 0 to 1.
        mask: (batch, frames) bool, True for a real frame; None where all are.
    """
    return _masked_mean(_cross_entropy, frame, target, mask)


def squared_error(value: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, over real frames with a mask; 0 where there is none.

    Of reconstructed features (Deshmukh et al., 2020, eq. 7) and of two networks' probabilities
    (Tarvainen and Valpola, 2017).

    Args:
        value, target: of one shape and of any floating type; (batch, frames, n) with a mask.
        mask: (batch, frames) bool, True for a real frame; None where all are.
    """
    return _masked_mean(_square, value, target, mask)


def _cross_entropy(probability: Tensor, target: Tensor) -> Tensor:
    # By way of logits: PyTorch's own of probabilities stops the program at NaN, before the trainer
    # can say what happened. What is held has a gradient: of a certain and wrong clip, too.
    given = torch.finfo(probability.dtype)
    probability = probability.float()
    bounded = probability.clamp(max(_LEAST, given.tiny), 1 - given.eps / 2)
    held = probability + (bounded - probability).detach()
    return binary_cross_entropy_with_logits(torch.logit(held), target.float(), reduction="none")


def _square(value: Tensor, target: Tensor) -> Tensor:
    return (value.float() - target.float()).square()


def _masked_mean(
    loss: Callable[[Tensor, Tensor], Tensor], value: Tensor, target: Tensor, mask: Tensor | None
) -> Tensor:
    """Mean over real frames of an elementwise loss; padded frames may hold anything."""
    if mask is None:
        values = loss(value, target)
        return values.mean() if values.numel() else values.sum()
    padding = ~mask[..., None]
    # Before and after: a padded NaN would come back in the gradient.
    values = loss(value.masked_fill(padding, 0), target.masked_fill(padding, 0))
    count = mask.sum().clamp(min=1) * values.shape[2]
    return values.masked_fill(padding, 0).sum() / count
