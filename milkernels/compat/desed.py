"""The attention head of the DESED baseline's CRNN (DCASE task 4)."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from milkernels import functional, validation
from milkernels.compat.head import wide

#: The method of the CRNN that computes the head, in the versions that have one, and its arguments.
METHOD = "_get_logits_one_head"
_ARGUMENTS = ["x", "pad_mask", "dense", "dense_softmax"]


class DESEDHead(nn.Module):
    r"""Frame probabilities x and clip probabilities y of the DESED baseline, with the share w of a
    class clamped to [1e-7, 1].

    $$x = \sigma(\mathrm{dense}(h)), \quad y = \frac{\sum_t x_t w_t}{\sum_t w_t}, \quad
    w = \mathrm{softmax}_c(\mathrm{dense\_softmax}(h))$$

    Differs from the original where frames are padded: there a padded frame gets the same weight for
    each class and is averaged in; here it counts for nothing.

    Args:
        in_features: width of the features h.
        num_classes: how many.

    >>> frame, clip = DESEDHead(64, 10)(torch.randn(4, 156, 64))
    >>> frame.shape, clip.shape
    (torch.Size([4, 10, 156]), torch.Size([4, 10]))
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, num_classes)
        self.dense_softmax = nn.Linear(in_features, num_classes)

    def forward(
        self,
        x: Tensor,
        pad_mask: Tensor | None = None,
        classes_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frame probabilities (batch, classes, frames) and clip probabilities (batch, classes) of x
        (batch, frames, in_features).

        Args:
            x: features.
            pad_mask: (batch, 1, frames) or (batch, frames) bool, True for a padded frame. As
                (batch, classes, frames) it pads frames of single classes.
            classes_mask: (batch, classes) bool, True for a class that the clip's labels cover; the
                others get 0.

        Masks broadcast along axes of size 1.
        """
        return head(x, pad_mask, self.dense, self.dense_softmax, classes_mask)


def head(
    x: Tensor,
    pad_mask: Tensor | None,
    dense: nn.Module,
    dense_softmax: nn.Module,
    classes_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The head over its two linear layers."""
    strong = dense(x).sigmoid()
    scores = dense_softmax(x)
    mask = absent = None
    if classes_mask is not None:
        shapes = {"(batch, classes)": (x.shape[0], scores.shape[2])}
        validation.broadcast_mask("classes_mask", classes_mask, "covered", shapes, x.device)
        absent = ~classes_mask[:, None, :]
        scores = scores.masked_fill(absent, torch.finfo(scores.dtype).min)
    if pad_mask is not None:
        scores, mask = _without_padding(scores, pad_mask)
    weak = functional.attention_pool(strong, scores, normalize="classes", dim=1, mask=mask)
    if absent is not None:
        strong = strong.masked_fill(absent, 0)
        weak = weak.masked_fill(absent[:, 0], 0)
    return strong.transpose(1, 2), weak


def _without_padding(scores: Tensor, pad_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (batch, frames, classes) without those of padded classes, and the real frames (batch,
    frames), of which some class is not padded."""
    bags, frames, classes = scores.shape
    shapes = {
        "(batch, classes, frames)": (bags, classes, frames),
        "(batch, frames)": (bags, frames),
    }
    validation.broadcast_mask("pad_mask", pad_mask, "padded", shapes, scores.device)
    if pad_mask.dim() == 2:
        padded = pad_mask
    elif pad_mask.shape[1] == 1:
        padded = pad_mask[:, 0]
    else:
        scores = scores.masked_fill(pad_mask.transpose(1, 2), torch.finfo(scores.dtype).min)
        padded = pad_mask.all(1)
    return scores, ~padded.expand(bags, frames)


def resembles(module: nn.Module) -> bool:
    """Whether a module computes this head from layers of its own."""
    return hasattr(module, "dense") and hasattr(module, "dense_softmax")


def problem(module: nn.Module) -> str | None:
    """Why the module's head cannot be taken over, or None if it can."""
    method = getattr(type(module), METHOD, None)
    if method is None:
        return "computes its head inside forward: call compat.DESEDHead there"
    if list(inspect.signature(method).parameters)[1:5] != _ARGUMENTS:
        return f"its {METHOD} takes other arguments"
    if getattr(module, "attention", None) not in (True, "legacy"):
        return "does not pool by attention"
    layers = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    arguments = (wide(2, 5, 4, scale=8.0), None, *layers)
    theirs = getattr(module, METHOD)(*arguments)
    if not all(torch.allclose(one, two) for one, two in zip(theirs, head(*arguments), strict=True)):
        return f"its {METHOD} gives other numbers"
    return None


def take_over(module: nn.Module) -> None:
    """Let the module compute its head by `head`."""
    original: Any = type(module)
    module.__class__ = _fused(original)


@cache
def _fused(original: Any) -> type[nn.Module]:
    """The module's class with our head in it; instances are copied and pickled by `original`."""

    def one_head(self: Any, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        return head(*arguments, **keywords)

    def reduce(self: nn.Module, _: int) -> tuple[Any, ...]:
        return _empty, (original,), self.__dict__

    members = {METHOD: one_head, "__reduce_ex__": reduce, "__module__": original.__module__}
    return type(original.__name__, (original,), members)


def _empty(original: Any) -> nn.Module:
    fused = _fused(original)
    return fused.__new__(fused)
