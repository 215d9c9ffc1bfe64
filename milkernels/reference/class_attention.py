"""Attention whose scores are normalised over the classes, from the paper's formula.

Source: Xu et al., "Large-scale weakly supervised audio classification using gated convolutional
neural network", 2018, equations 3 and 4; the clamp is the DESED baseline system's.
"""

from __future__ import annotations

from torch import Tensor

from milkernels.family import SHARE_FLOOR
from milkernels.reference.frames import Frames


def class_weights(values: Frames, scores: Tensor) -> Tensor:
    """Normalised weights (B, C, T) of activated scores: Z_c(t) / Σ_t Z_c(t), 0 on masked frames."""
    share = scores.softmax(1).clamp(SHARE_FLOOR, 1).masked_fill(~values.valid, 0)
    total = share.sum(-1, keepdim=True)
    return share / total.masked_fill(total == 0, 1)
