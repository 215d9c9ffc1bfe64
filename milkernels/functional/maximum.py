"""The maximum over frames, and its sum with the mean.

Sources: [W] Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions
for sound event detection with weak labeling", 2019. [K] Kong et al., "PANNs: large-scale pretrained
audio neural networks for audio pattern recognition", 2020.
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
    return _maximum(x, dim, mask, from_logits, plus_mean=False)


def max_mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """Largest frame plus the mean of the frames: y = max x_i + Σ x_i / n. Any real x. [K]

    Meant for embeddings; of probabilities it is no probability. Every frame takes 1/n of the
    gradient, the first maximal one the whole of it besides.
    """
    return _maximum(x, dim, mask, from_logits, plus_mean=True)


def _maximum(
    x: Tensor, dim: int, mask: Tensor | None, from_logits: bool, plus_mean: bool
) -> Tensor:
    dim = validation.frame_dim(dim)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        function = reference.max_mean_pool if plus_mean else reference.max_pool
        return function(x, dim=dim, mask=mask, from_logits=from_logits)
    return ops.maximum(x, mask, dim, from_logits, plus_mean, chosen)
