"""Export a detector: `python -m models.export --checkpoint RUN/model.pt --out DIR`."""

from __future__ import annotations

import argparse
import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from safetensors.torch import save
from torch import Tensor, nn

from models.checkpoint import write_atomically
from models.detector import Detector, detector_content, load_detector
from models.errors import CommandParser, UserError, run_command
from models.layers.reference_pooling import use_reference_pooling

FORMATS = ("safetensors", "onnx", "torch")
TOLERANCE = 1e-4
"""An exported probability is at most this far from the detector's."""

_OPSET = 18


class ExportedNetwork(nn.Module):
    """What is exported: from features (batch, frames, bands), before normalisation, of clips that
    are as long as one another, to clip (batch, classes) and, where the network has them, frame
    (batch, output frames, classes) probabilities. The pooling is plain PyTorch.

    Args:
        detector: taken over; it computes the same as before, with the eager pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = detector.network
        use_reference_pooling(self.network)
        self.register_buffer("mean", detector.front_end.mean)
        self.register_buffer("std", detector.front_end.std)
        self.bands = detector.preset.bands
        self.frames = detector.preset.clip_frames
        self.names = ("clip", "frame") if self.network.has_frames else ("clip",)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        output = self.network((features - self.mean) / self.std)
        return (output.clip,) if output.frame is None else (output.clip, output.frame)

    def examples(self, any_length: bool = False) -> list[Tensor]:
        """Two inputs of other batch sizes and, where they may differ, lengths."""
        generator = torch.Generator().manual_seed(0)
        longer = self.frames + 37 if any_length else self.frames
        return [
            torch.randn(batch, frames, self.bands, generator=generator)
            for batch, frames in ((2, self.frames), (3, longer))
        ]


def main() -> None:
    """Read the command line, export, and say what was written."""
    checkpoint, out, formats = parse()
    exports: dict[str, Callable[[Detector, Path], str]] = {
        "safetensors": export_safetensors,
        "onnx": export_onnx,
        "torch": export_torch,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in formats:
        # Each begins with the detector as it was trained.
        print(exports[name](load_detector(checkpoint), out), flush=True)


def export_safetensors(detector: Detector, folder: Path) -> str:
    """Write model.safetensors, which `load_detector` reads; a line that says so."""
    content = detector_content(detector)
    state = {name: value.contiguous() for name, value in content.pop("state").items()}
    path = folder / "model.safetensors"
    data = save(state, {"detector": json.dumps(content)})
    write_atomically(path, lambda file: file.write(data))
    return f"{path}: weights, features, classes and thresholds"


def export_onnx(detector: Detector, folder: Path) -> str:
    """Write model.onnx and compare it with the detector in ONNX Runtime; what is free in it.

    Raises:
        UserError: where it gives other probabilities.
    """
    network = ExportedNetwork(detector).eval()
    path = folder / "model.onnx"
    # A trace keeps GRUs whole; where it does not hold for other shapes, symbolic shapes may.
    attempts = [(_trace, True), (_trace, False), (_export_symbolic, False)]
    for convert, any_length in attempts[int(network.network.fixed_frames) :]:
        data = convert(network, any_length)
        difference = _onnx_difference(network, data, network.examples(any_length))
        if difference <= TOLERANCE:
            break
    _check(difference, path)
    length = "frames" if any_length else f"{network.frames} frames"
    write_atomically(path, lambda file: file.write(data))
    return (
        f"{path}: (batch, {length}, {network.bands}) to {' and '.join(network.names)}, at most "
        f"{difference:.1g} from PyTorch in ONNX Runtime"
    )


def _trace(network: ExportedNetwork, any_length: bool) -> bytes:
    free = {0: "batch", 1: "frames"} if any_length else {0: "batch"}
    axes = {"features": free, "clip": {0: "batch"}, "frame": free}
    data: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (network.examples()[0],),
            data,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["features"],
            output_names=list(network.names),
            dynamic_axes={name: axes[name] for name in ("features", *network.names)},
        )
    return data.getvalue()


def _export_symbolic(network: ExportedNetwork, any_length: bool) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            _program(network),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["features"],
            output_names=list(network.names),
            verbose=False,
        )
    return cast(torch.onnx.ONNXProgram, exported).model_proto.SerializeToString()


def _onnx_difference(network: ExportedNetwork, data: bytes, inputs: Sequence[Tensor]) -> float:
    """How far an ONNX file's probabilities are from PyTorch's; infinite where it does not run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(features: Tensor) -> list[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {"features": features.numpy()})]

    try:
        return _difference(network, run, inputs)
    except Fail:
        return math.inf


def export_torch(detector: Detector, folder: Path) -> str:
    """Write model.pt2, a `torch.export` program for clips of the preset's length; its shapes.

    Raises:
        UserError: where it gives other probabilities.
    """
    network = ExportedNetwork(detector).eval()
    inputs = network.examples()
    program = _program(network)
    path = folder / "model.pt2"
    difference = _difference(network, program.module(), inputs)
    _check(difference, path)
    write_atomically(path, lambda file: torch.export.save(program, file))
    return (
        f"{path}: (batch, {network.frames}, {network.bands}) to {' and '.join(network.names)}, at "
        f"most {difference:.1g} from PyTorch"
    )


def _program(network: ExportedNetwork) -> torch.export.ExportedProgram:
    """For any batch of clips of the preset's length: PyTorch unrolls recurrences over it."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (network.examples()[0],), dynamic_shapes=({0: batch},))


def _difference(
    network: ExportedNetwork,
    exported: Callable[[Tensor], Sequence[Tensor]],
    inputs: Sequence[Tensor],
) -> float:
    """The largest difference between the probabilities of both."""
    largest = 0.0
    for features in inputs:
        with torch.no_grad():
            expected, found = network(features), exported(features)
        for wanted, output in zip(expected, found, strict=True):
            if wanted.shape != output.shape:
                return math.inf
            largest = max(largest, float((wanted - output).abs().max()))
    return largest


def _check(difference: float, path: Path) -> None:
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: expected the detector's probabilities to within {TOLERANCE:g}, found a "
            f"difference of {difference:g}: not written"
        )


def parse() -> tuple[Path, Path, list[str]]:
    """The detector, the folder and the formats on the command line."""
    parser = CommandParser(
        prog="python -m models.export",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a run's model.pt")
    add("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="default all")
    given = parser.parse_args()
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out}: expected a folder, found a file")
    return given.checkpoint, given.out, given.formats


DESCRIPTION = """Write a detector in other formats:

  model.safetensors  weights, features, classes and thresholds; models.predict reads it
  model.onnx         the network with its normalisation, from features to probabilities
  model.pt2          the same for torch.export.load, of clips of the preset's length

The last two take features of clips as long as one another, before normalisation, as the front end's
extract gives them; the pooling in them is plain PyTorch. Both are compared with the detector on
random features before they are written, the first in ONNX Runtime."""


if __name__ == "__main__":
    run_command(main)
