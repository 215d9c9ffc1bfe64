"""The normalised weights of each pooling's frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES
from milkernels.reference import weighted_average
from milkernels.reference.class_attention import class_weights
from milkernels.reference.frames import Frames
from milkernels.reference.maximum import first_maximum
from milkernels.reference.noisy_or import log_inactive
from milkernels.reference.rank import rank_weights


def frame_weights(
    name: str,
    x: Tensor,
    *parameters: Any,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
    **options: Any,
) -> Tensor:
    """Each frame's share in its bag, in x's shape and dtype; see `functional.frame_weights`."""
    values = Frames(x, dim, mask, from_logits)
    weights = FRAME_WEIGHTS[name](values, *parameters, **options)
    return values.restore(values.by_layout(weights))


def _normalised(name: str) -> Callable[..., Tensor]:
    log_weight = getattr(weighted_average, f"{name}_log_weight")

    def weights(values: Frames, *parameters: Any, **options: Any) -> Tensor:
        return values.weights(log_weight(values, *parameters, **options))

    return weights


def _attention(
    values: Frames,
    scores: Tensor,
    score_activation: str | None = None,
    normalize: str = "frames",
) -> Tensor:
    activated = weighted_average.attention_log_weight(values, scores, score_activation)
    if normalize == "classes":
        return class_weights(values, activated)
    return values.weights(activated)


def _max(values: Frames) -> Tensor:
    nothing = torch.zeros_like(values.x)
    if values.x.shape[-1] == 0:
        return nothing
    return nothing.scatter(-1, first_maximum(values), 1).masked_fill(~values.valid, 0)


def _max_mean(values: Frames) -> Tensor:
    return (_max(values) + values.weights(weighted_average.mean_log_weight(values))) / 2


def _noisy_or(values: Frames) -> Tensor:
    evidence = -log_inactive(values).masked_fill(~values.valid, 0)
    # Frames at 1 are all of the evidence; without any, no frame differs from another.
    sure = evidence.isinf()
    evidence = torch.where(sure.any(-1, keepdim=True), sure.to(evidence.dtype), evidence)
    total = evidence.sum(-1, keepdim=True)
    even = values.weights(weighted_average.mean_log_weight(values))
    return torch.where(total == 0, even, evidence / total.masked_fill(total == 0, 1))


def _log_mean_exp(values: Frames, sharpness: float | Tensor) -> Tensor:
    if isinstance(sharpness, Tensor):
        sharpness = values.per_class(sharpness)
    return values.weights(sharpness * values.x)


#: Of weighted averages the functions that the reference pools by.
FRAME_WEIGHTS: dict[str, Callable[..., Tensor]] = {
    **{name: _normalised(name) for name in WEIGHTED_AVERAGES},
    "attention": _attention,
    "rank": rank_weights,
    "max": _max,
    "max_mean": _max_mean,
    "noisy_or": _noisy_or,
    "log_mean_exp": _log_mean_exp,
}
