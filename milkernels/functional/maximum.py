"""The maximum over frames.

Source: [W] Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions
for sound event detection with weak labeling", 2019.
"""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve


def max_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """Largest frame: y = max x_i. Any real x. [W, table 1]

    The first maximal frame takes the gradient.
    """
    dim = validation.frame_dim(dim)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.max_pool(x, dim=dim, mask=mask, from_logits=from_logits)
    return ops.maximum(x, mask, dim, from_logits, chosen)
