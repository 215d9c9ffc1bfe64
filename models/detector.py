"""A trained system as one module, from waveform to probabilities, and as one file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models import build_model, model_class
from models.checkpoint import load_saved, save_atomically
from models.data.classes import ClassList
from models.errors import UserError
from models.features import PRESETS, FrontEnd
from models.output import DetectorOutput

_FORMAT = "milkernels detector 1"


@dataclass(frozen=True)
class DetectorSpec:
    """What a detector is built from: names and plain numbers.

    Attributes:
        model: one of `models.list_models()`.
        pooling: one of `models.list_model_poolings(model)`; None for the system's own.
        features: one of `models.features.PRESETS`; None for the system's own.
        options: the network's own options.
    """

    model: str
    pooling: str | None
    features: str | None
    options: dict[str, Any]


class Detector(nn.Module):
    """Features and network together.

    Args:
        spec: what to build; the attribute `spec` names what None stood for.
        classes: the classes, in the order of the outputs' last axis.
    """

    thresholds: Tensor
    frame_thresholds: Tensor

    def __init__(self, spec: DetectorSpec, classes: ClassList) -> None:
        super().__init__()
        kind = model_class(spec.model)
        features = spec.features or kind.features
        self.classes = classes
        self.preset = PRESETS[features]
        self.front_end = FrontEnd(self.preset)
        bands = spec.options.get("mels", self.preset.bands)
        if bands != self.preset.bands:
            raise ValueError(
                f"mels: expected {self.preset.bands}, the bands of the features {features}, got "
                f"{bands!r}"
            )
        inputs: dict[str, Any] = {"mels": bands}
        if kind.fixed_frames:
            inputs["num_frames"] = self.preset.clip_frames
        self.network = build_model(
            spec.model, len(classes), spec.pooling, **{**inputs, **spec.options}
        )
        if kind.fixed_frames and self.network.num_frames < self.preset.clip_frames:
            raise ValueError(
                f"num_frames: expected at least {self.preset.clip_frames}, the frames of "
                f"{self.preset.clip_seconds:g} s, got {self.network.num_frames}"
            )
        self.spec = replace(spec, pooling=str(self.network.pooling), features=features)
        # Of clips, and of frames, which are the same unless they were tuned apart.
        self.register_buffer("thresholds", torch.full((len(classes),), 0.5))
        self.register_buffer("frame_thresholds", torch.full((len(classes),), 0.5))

    @property
    def frame_seconds(self) -> float:
        """Seconds from an output frame to the next."""
        return self.preset.frame_seconds * self.network.frame_reduction

    def set_thresholds(self, clip: Tensor | float, frame: Tensor | float | None = None) -> None:
        """Set thresholds of clips and of frames, (classes,) or one number; None for the same."""
        self.thresholds.copy_(torch.as_tensor(clip))
        self.frame_thresholds.copy_(torch.as_tensor(clip if frame is None else frame))

    def forward(self, waveform: Tensor, lengths: Tensor) -> DetectorOutput:
        """Detect events in waveforms (batch, samples) of `lengths` real samples (batch,)."""
        features, frames = self.front_end(waveform, lengths)
        return self.network(features, frames)


def detector_content(detector: Detector) -> dict[str, Any]:
    """A detector as tensors, numbers and strings alone, thresholds included."""
    return {
        "format": _FORMAT,
        **asdict(detector.spec),
        "mids": list(detector.classes.mids),
        "names": list(detector.classes.names),
        "state": {name: value.cpu() for name, value in detector.state_dict().items()},
    }


def save_detector(path: Path, detector: Detector) -> None:
    """Write a detector, which `load_detector` reads."""
    save_atomically(detector_content(detector), path)


def load_detector(path: Path, device: torch.device | str = "cpu") -> Detector:
    """Read what `save_detector` or `models.export` wrote; runs no code from the file.

    Raises:
        UserError: where the file is no such thing, or the device is not there.
    """
    advice = "expected a model.pt written by models.train"
    try:
        content = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {advice}, found nothing there") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {advice}, but the file cannot be read as one") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path}: {advice}, found another kind of file")
    try:
        spec = DetectorSpec(
            content["model"], content["pooling"], content["features"], content["options"]
        )
        classes = ClassList(tuple(content["mids"]), tuple(content["names"]))
        detector = Detector(spec, classes)
        detector.load_state_dict(content["state"])
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise UserError(
            f"{path}: {advice}, but its contents do not fit together: train it again with this "
            "version"
        ) from error
    try:
        return detector.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {device}: expected cpu or a device that is there ({reason})"
        ) from error


def _read(path: Path) -> object:
    if path.suffix != ".safetensors":
        return load_saved(path)
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {}).get("detector", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {**content, "state": state} if isinstance(content, dict) else content
