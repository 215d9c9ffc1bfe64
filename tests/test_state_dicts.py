"""What was saved with a release loads in later ones, under the same names and to the same numbers.

`state_dicts/VERSION.json` has for each module that VERSION's state_dict: names and shapes, and of
poolings what it gives with `numbers` for its parameters. A file stays as it is; a release whose
modules have other names or shapes adds its own, and reads the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networks
import pytest
import torch
from torch import Tensor, nn

import milkernels
from milkernels import compat
from models import build_model, list_models

RELEASES = sorted((Path(__file__).parent / "state_dicts").glob("*.json"))
NEWEST = RELEASES[-1]


def numbers(*shape: int) -> Tensor:
    """Between 0.1 and 0.9, all different."""
    return 0.1 + 0.8 * (0.618 * torch.arange(torch.Size(shape).numel()) % 1).reshape(shape)


FRAMES, FEATURES = numbers(2, 3, 9), numbers(2, 9, 4)
MADE: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    **{
        f"nn.{type(module).__name__}": (lambda name=name: pooling(name), (FRAMES,))
        for name, module in (
            (name, milkernels.nn.build_pooling(name, 3))
            for name in milkernels.nn.list_poolings()
            if name != "attention"
        )
    },
    "nn.LogMeanExpPool": (lambda: milkernels.nn.LogMeanExpPool(3), (FRAMES,)),
    "nn.AttentionPool": (lambda: milkernels.nn.AttentionPool(4, 3), (FRAMES, FEATURES)),
    "nn.AttentionStatsPool": (lambda: milkernels.nn.AttentionStatsPool(4, 2), (FEATURES.mT,)),
    "nn.GatedFusion": (lambda: milkernels.nn.GatedFusion(4), (numbers(2, 4),)),
    "nn.GMAP": (lambda: milkernels.nn.GMAP(4, 2), (FEATURES.mT,)),
    "nn.TwoStepAttention": (lambda: milkernels.nn.TwoStepAttention(4, 5), (numbers(2, 3, 5, 4),)),
    "compat.AttBlock": (lambda: compat.AttBlock(4, 3), (FEATURES.mT,)),
    "compat.AttBlockV2": (lambda: compat.AttBlockV2(4, 3), (FEATURES.mT,)),
    "compat.DESEDHead": (lambda: compat.DESEDHead(4, 3), (FEATURES,)),
    "compat.GatedAttention": (lambda: compat.GatedAttention(4, 5), (FEATURES[0],)),
    "compat.AttentiveStatisticsPooling": (
        lambda: compat.AttentiveStatisticsPooling(4, 5).eval(),
        (FEATURES.mT,),
    ),
    **{
        f"models.{name}": (
            lambda name=name: build_model(name, 3, mels=networks.MELS, **networks.SMALL[name]),
            (),
        )
        for name in list_models()
    },
}


def pooling(name: str) -> nn.Module:
    return milkernels.nn.build_pooling(name, 3)


def layout(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def value(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(output.square().sum().item() for output in outputs if output is not None)


def saved(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", MADE)
def test_names_and_shapes_are_the_newest_releases(name):
    build, _ = MADE[name]
    assert layout(build()) == saved(NEWEST)[name]["state"]


@pytest.mark.parametrize(
    ("release", "name"),
    [(path, name) for path in RELEASES for name in saved(path)],
    ids=lambda part: part.stem if isinstance(part, Path) else part,
)
def test_what_a_release_saved_loads_and_gives_the_same_numbers(release, name):
    build, inputs = MADE[name]
    entry = saved(release)[name]
    module = build()
    module.load_state_dict({key: numbers(*shape) for key, shape in entry["state"].items()})
    if inputs:
        assert value(module, inputs) == pytest.approx(entry["value"], rel=1e-5)


def test_every_public_module_is_held():
    public = {
        f"{part.__name__.removeprefix('milkernels.')}.{name}"
        for part in (milkernels.nn, compat)
        for name in part.__all__
        if isinstance(getattr(part, name), type) and issubclass(getattr(part, name), nn.Module)
    }
    assert public - {"nn.FramePool"} == {name for name in MADE if not name.startswith("models.")}
