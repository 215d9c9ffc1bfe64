"""Binary cross-entropy of a pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, logsigmoid

from milkernels import reference
from milkernels.reference.frames import Frames, without_autocast
from milkernels.reference.noisy_or import log_inactive

#: As in PyTorch; and the least y that a gradient of logits is divided by.
_LOG_FLOOR = -100.0
_LEAST_VARIANCE = 1e-12
_LEAST = 1e-30


def pool_bce(
    name: str,
    x: Tensor,
    target: Tensor,
    *params: Any,
    from_logits: bool = True,
    weight: Tensor | None = None,
    label_mask: Tensor | None = None,
    reduction: str = "mean",
    dim: int = -1,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """w (-t log y - (1 - t) log(1 - y)) with y = pool(x), reduced over the known labels."""
    with without_autocast(x.device):
        gradients = _Range(x, dim)
        exact = gradients.exact(x)
        target = target.detach().to(exact.dtype)
        unknown = target.isnan()
        target = target.masked_fill(unknown, 0.5)
        if name == "noisy_or":
            cells = _of_noisy_or(exact, target, dim, mask, from_logits)
        elif name == "max" and from_logits:
            cells = _of_maximum(exact, target, dim, mask)
        else:
            keywords = {key: gradients.exact(value) for key, value in options.items()}
            keywords |= {"dim": dim, "mask": mask, "from_logits": from_logits}
            pool = getattr(reference, f"{name}_pool")
            y = pool(exact, *(gradients.exact(value) for value in params), **keywords)
            cells = _of_sigmoids(y, target) if from_logits else cross_entropy(y, target)
        cells = cells.masked_fill(unknown, torch.nan)
        if weight is not None:
            cells = cells * weight.detach().to(cells.dtype)
        if label_mask is not None:
            cells = cells.masked_fill(~label_mask, 0)
        if reduction == "none":
            # Where classes compete, a frame's gradient is that of several losses.
            words = [value for value in (*params, *options.values()) if isinstance(value, str)]
            return cells if "classes" in words else gradients.scaled(cells)
        total = gradients.scaled(cells.sum())
        return total * (known_share(cells, label_mask) if reduction == "mean" else 1)


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    """PyTorch's, but that NaN stays NaN and a y outside [0, 1] counts as the nearer bound."""
    held = y + (y.clamp(0, 1) - y).detach()
    lost = y.isnan()
    cells = binary_cross_entropy(held.masked_fill(lost, 0.5), target, reduction="none")
    return torch.where(lost, y, cells)


def _of_sigmoids(y: Tensor, target: Tensor) -> Tensor:
    """Of bag values whose slopes vanish as they do. Less than half a rounding of 1 is lost in y but
    not in the slopes: 0 / 0 by halves."""
    y = y + (y.clamp(0, 1) - y).detach()
    log_y = _logarithm(y, _LEAST)
    log_rest = _logarithm(1 - y, torch.finfo(y.dtype).eps / 4)
    return -(target * log_y + (1 - target) * log_rest)


def _of_maximum(x: Tensor, target: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """Of the maximum's logit, however close to 1 its sigmoid is."""
    logit = reference.max_pool(x, dim=dim, mask=mask)
    some = Frames(x, dim, mask, True).valid.any(-1)
    cells = -(target * _held(logsigmoid(logit)) + (1 - target) * _held(logsigmoid(-logit)))
    # A bag without frames is 0.
    return torch.where(some, cells, -_LOG_FLOOR * target)


def _of_noisy_or(
    x: Tensor, target: Tensor, dim: int, mask: Tensor | None, from_logits: bool
) -> Tensor:
    """Of log(1 - y), the sum over frames, however close to 1 they bring y. Where a frame is 1 there
    is no such logarithm."""
    is_1 = x.detach() >= (torch.inf if from_logits else 1)
    frames = Frames(x.masked_fill(is_1, 0), dim, mask, from_logits)
    logarithm = log_inactive(frames).masked_fill(~frames.valid, 0).sum(-1)
    logarithm = logarithm + (logarithm.clamp(max=0) - logarithm).detach()
    log_y = _logarithm(-logarithm.expm1(), _LEAST if from_logits else _LEAST_VARIANCE)
    cells = -(target * log_y + (1 - target) * _held(logarithm))
    y = reference.noisy_or_pool(x, dim=dim, mask=mask, from_logits=from_logits)
    closed = (frames.arrange(is_1.to(x.dtype)) > 0).any(-1)
    return torch.where(closed, cross_entropy(y, target), cells)


def _held(logarithm: Tensor) -> Tensor:
    """At least the floor; its derivative goes on."""
    return logarithm + (logarithm.clamp(min=_LOG_FLOOR) - logarithm).detach()


def _logarithm(value: Tensor, least: float) -> Tensor:
    """log value, at least the floor, and its derivative, 1 / value, at most 1 / least."""
    small = value < least
    line = value / least
    return torch.where(
        small,
        line + (value.detach().log().clamp(min=_LOG_FLOOR) - line).detach(),
        value.masked_fill(small, 1).log().clamp(min=_LOG_FLOOR),
    )


def known_share(cells: Tensor, label_mask: Tensor | None) -> Tensor:
    """1 over the number of known labels, and 1 of none, in the dtype of `cells`."""
    if label_mask is None:
        return cells.new_full((), 1 / max(cells.numel(), 1))
    return label_mask.sum().clamp(min=1).to(cells.dtype).reciprocal()


class _Range:
    """float16's range of gradients. Those for a loss whose own gradient is 1 are held in it; a
    larger one may carry frames' to infinity, which gradient scalers look for."""

    def __init__(self, x: Tensor, dim: int) -> None:
        self._matters = x.dtype == torch.float16
        self._dim = dim
        self._scale: Tensor | None = None

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, whose gradient is to be known before those of the inputs."""
        # A compiled graph cannot keep it: there, scaled gradients are held too.
        if self._matters and loss.requires_grad and not torch.compiler.is_compiling():
            loss.register_hook(self._keep)
        return loss

    def exact(self, value: Any) -> Any:
        """A tensor in the dtype that its arithmetic is in; its gradient within the range."""
        if not isinstance(value, Tensor) or value.dtype == torch.float64:
            return value
        exact = value.float()
        if value.dtype == torch.float16 and exact.requires_grad:
            exact.register_hook(self._held)
        return exact

    def _keep(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            scale = gradient.detach().abs()
            self._scale = scale.unsqueeze(self._dim) if scale.dim() == 2 else scale

    def _held(self, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        largest = torch.finfo(torch.float16).max
        if self._scale is None or gradient.dim() < 3:
            return gradient.clamp(-largest, largest)
        return gradient.clamp(-largest * self._scale, largest * self._scale)
