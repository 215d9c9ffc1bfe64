"""The frame-level poolings by their functions' names."""

from __future__ import annotations

import inspect
from typing import Any

from milkernels.nn import frame_level
from milkernels.nn.frame_level import FramePool

_POOLINGS: dict[str, type[FramePool]] = {
    "mean": frame_level.MeanPool,
    "max": frame_level.MaxPool,
    "max_mean": frame_level.MaxMeanPool,
    "linear_softmax": frame_level.LinearSoftmaxPool,
    "exp_softmax": frame_level.ExpSoftmaxPool,
    "auto": frame_level.AutoPool,
    "power": frame_level.PowerPool,
    "power_exp": frame_level.PowerExpPool,
    "attention": frame_level.AttentionPool,
    "noisy_or": frame_level.NoisyOrPool,
    "rank": frame_level.RankPool,
    "log_mean_exp": frame_level.LogMeanExpPool,
}


def list_poolings(probabilities: bool = False) -> list[str]:
    """Names that `build_pooling` takes; with `probabilities` those that give a probability.

    >>> set(list_poolings()) - set(list_poolings(probabilities=True))
    {'max_mean'}
    """
    return [
        name for name, kind in _POOLINGS.items() if kind.gives_probabilities or not probabilities
    ]


def build_pooling(name: str, num_classes: int, **options: Any) -> FramePool:
    """Build a frame-level pooling by its function's name without `_pool`.

    `options` go to the module: `dim`, `from_logits`, and its own (`in_features` for "attention").
    A module that learns something for each class gets `num_classes`.

    Raises:
        ValueError: for an unknown name.
        TypeError: for an option that the module does not take.

    >>> build_pooling("power", num_classes=17, dim=1)
    PowerPool(dim=1, from_logits=False)
    """
    if name not in _POOLINGS:
        raise ValueError(f"pooling: expected one of {', '.join(_POOLINGS)}, got {name!r}")
    module = _POOLINGS[name]
    if "num_classes" in inspect.signature(module).parameters:
        options["num_classes"] = num_classes
    return module(**options)
