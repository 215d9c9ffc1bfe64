"""Exported detectors: the same probabilities in other formats, at other lengths."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from networks import SMALL
from safetensors.torch import save_file

from models import export as program
from models.data.classes import ClassList
from models.detector import Detector, DetectorSpec, load_detector, save_detector
from models.errors import UserError
from models.export import export_onnx, export_safetensors, export_torch

CLASSES = ClassList(("/m/1", "/m/2", "/m/3"), ("One", "Two", "Three"))


def detector(name: str, pooling: str | None = None) -> Detector:
    options = {key: value for key, value in SMALL[name].items() if key != "num_frames"}
    built = Detector(DetectorSpec(name, pooling, None, options), CLASSES).eval()
    built.front_end.mean.uniform_(-1, 1)
    built.front_end.std.uniform_(0.5, 2)
    built.thresholds.uniform_()
    return built


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_detector(tmp_path / "model.pt", detector("dcase2017_crnn", "power"))
    return tmp_path / "model.pt"


def test_safetensors_hold_the_whole_detector(saved: Path, tmp_path: Path) -> None:
    before = load_detector(saved)
    export_safetensors(before, tmp_path)
    after = load_detector(tmp_path / "model.safetensors")
    assert (after.spec, after.classes) == (before.spec, before.classes)
    states = before.state_dict(), after.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_safetensors_that_hold_no_detector_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    for name in ("other", "broken", "missing"):
        with pytest.raises(UserError, match=rf"{name}\.safetensors: expected a model\.pt"):
            load_detector(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "any_length"),
    [
        ("dcase2017_crnn", True),
        ("talnet", True),
        ("atrous_cnn", True),
        ("two_step_autoencoder", False),
    ],
)
def test_onnx_gives_the_detectors_probabilities_for_other_batches_and_lengths(
    name: str, any_length: bool, tmp_path: Path
) -> None:
    original = detector(name)
    said = export_onnx(copy.deepcopy(original), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    one = original.preset.clip_frames
    assert ("(batch, frames, 64)" in said) == any_length
    lengths = (one, 221) if any_length else (one, one)
    for batch, frames in zip((1, 3), lengths, strict=True):
        features = torch.randn(batch, frames, 64)
        every = torch.full((batch,), frames)
        with torch.no_grad():
            output = original.network(original.front_end.normalise(features, every))
        expected = [part for part in (output.clip, output.frame) if part is not None]
        found = session.run(None, {"features": features.numpy()})
        for wanted, part in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.from_numpy(part), wanted, rtol=1e-4, atol=1e-5)


def test_torch_export_gives_the_detectors_probabilities_for_other_batches(tmp_path: Path) -> None:
    original = detector("atrous_cnn")
    features = torch.randn(5, original.preset.clip_frames, 64)
    lengths = torch.full((5,), features.shape[1])
    with torch.no_grad():
        expected = original.network(original.front_end.normalise(features, lengths)).clip
    export_torch(original, tmp_path)
    found = torch.export.load(tmp_path / "model.pt2").module()(features)
    torch.testing.assert_close(found[0], expected)


def test_a_program_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"model\.pt2: .*not written"):
        export_torch(detector("atrous_cnn"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_formats_that_were_asked_for(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(saved), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["export", *given, "--formats", "safetensors", "onnx"])
    program.main()
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["model.onnx", "model.safetensors"]
    said = capsys.readouterr().out
    assert "(batch, frames, 64) to clip and frame" in said
