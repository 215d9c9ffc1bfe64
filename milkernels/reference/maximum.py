"""The maximum over frames."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import Frames


def max_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = max x_i; the first maximal frame takes the gradient. [W, table 1]"""
    values = Frames(x, dim, mask, from_logits)
    if values.x.shape[-1] == 0:
        return values.restore(values.x.sum(-1))
    # Ranked before the sigmoid, which sends many large logits to the same 1.0.
    ranked = values.raw.detach().masked_fill(~values.valid, -torch.inf)
    peak = ranked.amax(-1, keepdim=True)
    is_peak = ((ranked == peak) | (ranked.isnan() & peak.isnan())) & values.valid
    first = is_peak.to(torch.int8).argmax(-1, keepdim=True)
    chosen = values.x.gather(-1, first).squeeze(-1)
    return values.restore(torch.where(values.valid.any(-1), chosen, 0))
