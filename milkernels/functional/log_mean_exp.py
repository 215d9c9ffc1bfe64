"""The logarithm of the mean exponential."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve


def log_mean_exp_pool(
    x: Tensor,
    sharpness: float | Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Log-mean-exp. Any real x. [P, eq. 6]

    $$y = \frac{1}{r} \log \Bigl( \frac{1}{n} \sum_i \exp(r x_i) \Bigr)$$

    `sharpness` is r: a finite number other than 0, or (classes,) and then learned. Near 0 the bag
    value is the mean of the frames, large it is their maximum, far below 0 their minimum; it lies
    between the smallest and the largest frame. A 0 in a tensor gives the mean, with the gradient
    Var(x) / 2 for r.

    >>> log_mean_exp_pool(torch.tensor([[[0.2, 0.8]]]), sharpness=5.0)
    tensor([[0.6711]])
    """
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, classes, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    validation.sharpness(sharpness, classes, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.log_mean_exp_pool(
            x, sharpness, dim=dim, mask=mask, from_logits=from_logits
        )
    sharpness = sharpness_per_class(sharpness, x, classes)
    if chosen == "cpp":
        y = ops.log_mean_exp_in_one(x, sharpness, mask, dim, from_logits)
        if y is not None:
            return y
    return ops.log_mean_exp(x, sharpness, mask, dim, from_logits, chosen)


def sharpness_per_class(sharpness: float | Tensor, x: Tensor, classes: int) -> Tensor:
    """A sharpness as the kernels take it: (classes,)."""
    if isinstance(sharpness, Tensor):
        return sharpness
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_full((classes,), sharpness, dtype=dtype)
