"""Binary cross-entropy of a pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from milkernels import reference


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
    pool = getattr(reference, f"{name}_pool")
    with torch.autocast(x.device.type, enabled=False):
        y = pool(
            _exact(x),
            *(_exact(value) for value in params),
            dim=dim,
            mask=mask,
            from_logits=from_logits,
            **{key: _exact(value) for key, value in options.items()},
        )
        cells = cross_entropy(y, target.detach().to(y.dtype))
        if weight is not None:
            cells = cells * weight.detach().to(y.dtype)
        if label_mask is not None:
            cells = cells.masked_fill(~label_mask, 0)
        if reduction == "none":
            return cells
        return cells.sum() * (known_share(cells, label_mask) if reduction == "mean" else 1)


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    """PyTorch's, but that NaN stays NaN and a y outside [0, 1] counts as the nearer bound."""
    held = y + (y.clamp(0, 1) - y).detach()
    lost = y.isnan()
    safe = held.masked_fill(lost, 0.5)
    unknown = target.isnan()
    cells = binary_cross_entropy(safe, target.masked_fill(unknown, 0.5), reduction="none")
    return torch.where(lost, y, cells).masked_fill(unknown, torch.nan)


def known_share(cells: Tensor, label_mask: Tensor | None) -> Tensor:
    """1 over the number of known labels, and 1 of none, in the dtype of `cells`."""
    if label_mask is None:
        return cells.new_full((), 1 / max(cells.numel(), 1))
    return label_mask.sum().clamp(min=1).to(cells.dtype).reciprocal()


def _exact(value: Any) -> Any:
    """A tensor in the dtype that its arithmetic is in; its gradient has float16's range."""
    if not isinstance(value, Tensor) or value.dtype == torch.float64:
        return value
    exact = value.float()
    if value.dtype == torch.float16 and exact.requires_grad:
        largest = torch.finfo(torch.float16).max
        exact.register_hook(lambda gradient: gradient.clamp(-largest, largest))
    return exact
