"""Reference systems for weakly labelled sound event detection, built on `milkernels.nn`."""

from __future__ import annotations

from torch import nn

from models.dcase2017_crnn import Dcase2017Crnn
from models.output import DetectorOutput

__all__ = ["DetectorOutput", "build_model", "list_models"]

_MODELS: dict[str, type[nn.Module]] = {
    "dcase2017_crnn": Dcase2017Crnn,
}


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return list(_MODELS)


def build_model(
    name: str, num_classes: int, pooling: str = "linear_softmax", **options: object
) -> nn.Module:
    """Build a network by name.

    Args:
        name: one of `list_models()`.
        num_classes: how many classes it tells apart.
        pooling: one of `milkernels.nn.list_poolings(probabilities=True)`.
        options: the network's own, as its class documents them.

    Raises:
        ValueError: for an unknown model or pooling.
    """
    if name not in _MODELS:
        raise ValueError(f"model: expected one of {', '.join(_MODELS)}, got {name!r}")
    return _MODELS[name](num_classes, pooling=pooling, **options)
