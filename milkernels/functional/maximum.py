"""The maximum over frames, and its sum with the mean."""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import cpp_serves_cpu, resolve


def max_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Largest frame. Any real x. [W, table 1]

    $$y = \max_i x_i$$

    The first maximal frame takes the gradient.

    >>> max_pool(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.6000]])
    """
    return _maximum(x, dim, mask, from_logits, plus_mean=False)


def max_mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Largest frame plus the mean of the frames. Any real x. [K]

    $$y = \max_i x_i + \frac{1}{n} \sum_i x_i$$

    Meant for embeddings; of probabilities it is no probability. Every frame takes 1/n of the
    gradient, the first maximal one the whole of it besides.

    >>> max_mean_pool(torch.tensor([[[-1.0, 3.0]]]))
    tensor([[4.]])
    """
    return _maximum(x, dim, mask, from_logits, plus_mean=True)


def _maximum(
    x: Tensor, dim: int, mask: Tensor | None, from_logits: bool, plus_mean: bool
) -> Tensor:
    if cpp_serves_cpu():
        y = ops.maximum_in_one(x, mask, dim, from_logits, plus_mean)
        if y is not None:
            return y
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        function = reference.max_mean_pool if plus_mean else reference.max_pool
        return function(x, dim=dim, mask=mask, from_logits=from_logits)
    return ops.maximum(x, mask, dim, from_logits, plus_mean, chosen)
