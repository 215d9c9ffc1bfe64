"""Reference systems for weakly labelled sound event detection, built on `milkernels.nn`."""

from __future__ import annotations

from typing import Any

from models.atrous_cnn import AtrousCnn
from models.dcase2017_crnn import Dcase2017Crnn
from models.gated_crnn import GatedCrnn
from models.gmap_cnn import GmapCnn
from models.layers.reference_pooling import use_reference_pooling
from models.network import Network
from models.output import DetectorOutput
from models.power_crnn import PowerCrnn
from models.talnet import TalNet
from models.two_step_autoencoder import TwoStepAutoencoder

__all__ = ["DetectorOutput", "build_model", "list_model_poolings", "list_models", "model_class"]

_MODELS: dict[str, type[Network]] = {
    "dcase2017_crnn": Dcase2017Crnn,
    "talnet": TalNet,
    "power_crnn": PowerCrnn,
    "gmap_cnn": GmapCnn,
    "two_step_autoencoder": TwoStepAutoencoder,
    "atrous_cnn": AtrousCnn,
    "gated_crnn": GatedCrnn,
}


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return list(_MODELS)


def model_class(name: str) -> type[Network]:
    """The network of a name.

    Raises:
        ValueError: for an unknown one.
    """
    if name not in _MODELS:
        raise ValueError(f"model: expected one of {', '.join(_MODELS)}, got {name!r}")
    return _MODELS[name]


def list_model_poolings(name: str) -> list[str]:
    """Names of the poolings that the network of a name takes, in `build_model`."""
    return list(model_class(name).poolings)


def build_model(
    name: str,
    num_classes: int,
    pooling: str | None = None,
    reference_pooling: bool = False,
    **options: Any,
) -> Network:
    """Build a network by name.

    Args:
        name: one of `list_models()`.
        num_classes: how many classes it tells apart.
        pooling: one of `list_model_poolings(name)`; None for the system's own.
        reference_pooling: build the twin whose poolings are eager PyTorch, of the same parameters
            and numbers.
        options: the network's own, as its class documents them.

    Raises:
        ValueError: for an unknown model, or a pooling that it does not take.
    """
    kind = model_class(name)
    if pooling is not None:
        options["pooling"] = pooling
    network = kind(num_classes, **options)
    if reference_pooling:
        use_reference_pooling(network)
    return network
