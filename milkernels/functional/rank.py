"""Global weighted rank pooling."""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve


def rank_pool(
    x: Tensor,
    decay: float,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Global weighted rank pooling: frames weigh by their rank, x_(0) the largest. Any real
    x. [S]

    $$y = \frac{\sum_r d^r x_{(r)}}{\sum_r d^r}$$

    `decay` is d, a float in [0, 1]: 0 is the maximum (0^0 = 1), 1 the mean. Of equal frames the
    earlier ranks first; logits are ranked as they are, before the sigmoid. A NaN makes its bag and
    class NaN, gradients too.

    x is read once. Where gradients are wanted the frames' ranks are written, as 16-bit integers up
    to 32,767 frames and as 32-bit ones beyond, and the backward pass reads them instead of sorting
    again; it reads x only for the sigmoid's derivative. On a GPU every few classes read the mask,
    and bags of more than 1024 frames, and float64, go through a library sort, which moves more.

    >>> rank_pool(torch.tensor([[[0.3, 0.9]]]), decay=0.5)
    tensor([[0.7000]])
    """
    validation.decay(decay)
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.rank_pool(x, decay, dim=dim, mask=mask, from_logits=from_logits)
    if chosen == "cpp":
        y = ops.rank_in_one(x, mask, decay, dim, from_logits)
        if y is not None:
            return y
    return ops.rank(x, mask, decay, dim, from_logits, chosen)
