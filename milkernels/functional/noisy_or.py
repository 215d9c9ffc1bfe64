"""Noisy-or."""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import cpp_serves_cpu, resolve


def noisy_or_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""The probability that any frame is active, if they are independent. [V]

    $$y = 1 - \prod_i (1 - x_i)$$

    With g = dL/dy the gradient is dL/dx_i = g Π_{j≠i} (1 - x_j), and from logits, without a pole,
    dL/dz_i = g (1 - y) x_i. Values outside [0, 1] are taken by the same formula.

    >>> noisy_or_pool(torch.tensor([[[0.5, 0.5]]]))
    tensor([[0.7500]])
    """
    if cpp_serves_cpu():
        y = ops.noisy_or_in_one(x, mask, dim, from_logits)
        if y is not None:
            return y
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.noisy_or_pool(x, dim=dim, mask=mask, from_logits=from_logits)
    return ops.noisy_or(x, mask, dim, from_logits, chosen)
