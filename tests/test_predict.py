"""Prediction: its output, its errors, recordings of any length, pictures."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from models import predict as program
from models.data.classes import ClassList
from models.detector import Detector, DetectorSpec, load_detector, save_detector
from models.errors import UserError
from models.predict import predict

CLASSES = ClassList(("/m/a", "/m/b", "/m/c"), ("Bell", "Dog, bark", "Siren"))
SPEC = DetectorSpec(
    "dcase2017_crnn", "attention", "dcase2017", {"channels": [4, 4, 8], "gru_width": 6}
)
RATE = 16000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    detector = Detector(SPEC, CLASSES)
    detector.front_end.mean.fill_(-4)
    detector.front_end.std.fill_(3)
    detector.set_thresholds(torch.tensor([0.5, 0.0, 1.0]))
    path = tmp_path_factory.mktemp("run") / "model.pt"
    save_detector(path, detector)
    return path


@pytest.fixture
def audio(tmp_path):
    return _audio(tmp_path / "clip.wav", 2.05)


def _audio(path, seconds):
    path.parent.mkdir(exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE))
    soundfile.write(path, samples, RATE)
    return path


def run(monkeypatch, capsys, checkpoint, *arguments):
    """Exit status, stdout and stderr lines of the program."""
    given = ["predict", "--checkpoint", str(checkpoint), *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", given)
    status = 0
    try:
        program.main()
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def test_one_event_a_line_and_tags_as_comments(monkeypatch, capsys, checkpoint, audio):
    status, out, err = run(monkeypatch, capsys, checkpoint, audio)
    assert (status, err) == (0, [])
    tags = [line[2:].split("\t") for line in out if line.startswith("# ")]
    assert ["Dog, bark"] in [tag[1:2] for tag in tags]
    assert all(tag[0] == str(audio) and 0 <= float(tag[2]) <= 1 for tag in tags)
    events = [line.split("\t") for line in out if not line.startswith("#")]
    always = [event for event in events if event[3] == "Dog, bark"]
    assert [event[:4] for event in always] == [[str(audio), "0.000", "2.050", "Dog, bark"]]
    assert 0 <= float(always[0][4]) <= 1
    assert all(event[3] != "Siren" for event in events)


def test_one_threshold_for_all_classes(monkeypatch, capsys, checkpoint, audio):
    _, out, _ = run(monkeypatch, capsys, checkpoint, audio, "--threshold", "0")
    assert {line.split("\t")[3] for line in out if not line.startswith("#")} == {*CLASSES.names}
    status, out, err = run(monkeypatch, capsys, checkpoint, audio, "--threshold", "1")
    assert (status, out) == (0, [])
    assert err == [f"{audio}: no event reaches its class's threshold"]


def test_a_bad_file_does_not_keep_the_others(monkeypatch, capsys, checkpoint, audio, tmp_path):
    bad, absent = tmp_path / "bad.wav", tmp_path / "absent.wav"
    empty = tmp_path / "empty.wav"
    empty.touch()
    bad.write_bytes(b"no audio")
    status, out, err = run(monkeypatch, capsys, checkpoint, bad, audio, absent, tmp_path, empty)
    assert status == 1
    assert any(line.startswith(str(audio)) for line in out)
    assert err == [
        f"error: {bad}: expected an audio file, but it cannot be read (Format not recognised): "
        "replace it or leave it out",
        f"error: {absent}: expected an audio file, found no such file: check the name",
        f"error: {tmp_path}: expected an audio file, found a folder: name the files in it",
        f"error: {empty}: expected audio, but the file is empty: replace it or leave it out",
    ]


@pytest.mark.parametrize("option", ["--median", "--max-gap", "--min-duration"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_smoothing_takes_no_other_than_a_duration(
    option, value, monkeypatch, capsys, checkpoint, audio
):
    status, out, err = run(monkeypatch, capsys, checkpoint, audio, option, value)
    assert (status, out) == (2, [])
    assert err[0].startswith(f"error: {option}: expected seconds, 0 or more, got {value}")


def test_only_tagged_classes_have_events(checkpoint):
    detector = load_detector(checkpoint)
    waveform = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    given = predict(detector, waveform)
    between = (given.clip + given.frame.max(axis=0)) / 2
    assert (between > given.clip).all()
    detector.set_thresholds(torch.from_numpy(between))
    assert predict(detector, waveform).events == []


def test_programs_that_only_predict_start_without_the_trainer():
    command = "import sys, models.predict; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_the_shortest_recording_is_heard(checkpoint):
    prediction = predict(load_detector(checkpoint), torch.zeros(1))
    assert prediction.frame.shape == (1, 3)
    assert prediction.events[0].offset == pytest.approx(1 / RATE)


def test_frames_of_a_long_recording_are_in_their_place(checkpoint):
    detector = load_detector(checkpoint)
    waveform = torch.randn(round(27.3 * RATE), generator=torch.Generator().manual_seed(0))
    prediction = predict(detector, waveform)
    assert prediction.frame.shape == (273, 3)
    # Inside its first window a frame is what the window alone gives, and so it is in the last.
    first = predict(detector, waveform[: 10 * RATE]).frame
    np.testing.assert_allclose(prediction.frame[:90], first[:90], atol=1e-5)
    last = predict(detector, waveform[24 * RATE :]).frame
    np.testing.assert_allclose(prediction.frame[250:], last[10:], atol=1e-5)
    assert prediction.events[0].offset <= 27.3


def test_a_picture_is_drawn(monkeypatch, capsys, checkpoint, audio, tmp_path):
    other = _audio(tmp_path / "other" / "clip.wav", 0.5)
    run(monkeypatch, capsys, checkpoint, audio, other, "--plot", tmp_path / "plots")
    pictures = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in pictures] == ["clip-2.png", "clip.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    run(monkeypatch, capsys, checkpoint, audio, "--plot", tmp_path / "one.svg")
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()


def test_two_files_do_not_share_a_picture(monkeypatch, capsys, checkpoint, audio, tmp_path):
    with pytest.raises(UserError, match="expected a folder"):
        run(monkeypatch, capsys, checkpoint, audio, audio, "--plot", tmp_path / "one.png")


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", "another kind"])
def test_a_wrong_checkpoint_is_named(content, tmp_path, monkeypatch, capsys, audio):
    path = tmp_path / "model.pt"
    if content == "another kind":
        torch.save({"state_dict": {}}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: expected a model\.pt written by models"):
        run(monkeypatch, capsys, path, audio)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch, capsys, audio):
    class Trap:
        def __reduce__(self):
            return (sys.exit, (99,))

    torch.save({"format": Trap()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="cannot be read"):
        run(monkeypatch, capsys, tmp_path / "model.pt", audio)


def test_a_device_that_is_not_there_is_refused(monkeypatch, capsys, checkpoint, audio):
    with pytest.raises(UserError, match="--device nonsense"):
        run(monkeypatch, capsys, checkpoint, audio, "--device", "nonsense")
