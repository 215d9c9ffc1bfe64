"""Detect events in audio files: `python -m models.predict --checkpoint RUN/model.pt AUDIO...`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.data.audio import load_audio
from models.detection import DetectionOptions, Prediction, find_events
from models.detector import Detector, load_detector
from models.errors import CommandParser, UserError, run_command
from models.median import add_median_options, check_median_options, median_widths
from models.plots import DetectionPicture, draw_detection, image_suffixes

_MARGIN_SECONDS = 1.0
_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class PredictOptions:
    """A prediction; `models.predict --help` describes each option."""

    checkpoint: Path
    audio: list[Path]
    plot: Path | None = None
    threshold: float | None = None
    median: float = 0.0
    median_share: float | None = None
    event_lengths: Path | None = None
    max_gap: float = 0.0
    min_duration: float = 0.0
    device: str = "cpu"


def main() -> None:
    """Read the command line and print the events of every file that can be read."""
    options = parse()
    pictures = _pictures(options)
    detector = load_detector(options.checkpoint, options.device)
    if options.threshold is not None:
        detector.set_thresholds(options.threshold)
    median = median_widths(
        options.median, options.median_share, options.event_lengths, detector.classes
    )
    smoothing = DetectionOptions(median, options.max_gap, options.min_duration)
    failed = False
    for index, path in enumerate(options.audio):
        try:
            waveform = load_audio(path, detector.preset.sample_rate)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        prediction = predict(detector, waveform, smoothing)
        print_prediction(path, prediction, detector)
        if pictures:
            picture = DetectionPicture(
                log_mel_of(detector, waveform),
                prediction,
                detector.frame_seconds,
                detector.frame_thresholds.cpu().numpy(),
                detector.classes.names,
                path.name,
            )
            draw_detection(pictures[index], picture, detector.preset)
    if failed:
        sys.exit(1)


def predict(
    detector: Detector, waveform: Tensor, options: DetectionOptions | None = None
) -> Prediction:
    """Detect events in a recording of any length.

    A recording longer than the clips the detector was trained on is heard in windows of that
    length. They overlap by two seconds, of which each gives up a second: a frame near an edge
    lacks half of its surroundings. A class's clip probability is the largest of the windows', and
    it has events only in windows whose own is at least its threshold. A network that tags clips
    alone gives no events.

    Args:
        detector: trained.
        waveform: (samples,) at the detector's sample rate.
        options: smoothing of the events.
    """
    clips, frames, clip_of_frames = [], [], []
    windows = _windows(detector, len(waveform))
    groups = range(0, len(windows), _WINDOWS_AT_ONCE)
    for first in tqdm(groups, "windows", disable=None if len(groups) > 1 else True, leave=False):
        group = windows[first : first + _WINDOWS_AT_ONCE]
        pieces = [waveform[start:end] for start, end, _, _ in group]
        lengths = torch.tensor([len(piece) for piece in pieces])
        batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        with torch.no_grad():
            output = detector(batch.to(detector.thresholds.device), lengths)
        clip = output.clip.float().cpu().numpy()
        clips.append(clip)
        for row, (_, _, keep_from, keep_to) in enumerate(group):
            frame = output.frames_of(row)
            if frame is None:
                frame = output.clip.new_zeros(0, len(clip[row]))
            kept = frame[keep_from:keep_to].float().cpu().numpy()
            frames.append(kept)
            clip_of_frames.append(np.broadcast_to(clip[row], kept.shape))
    frame = np.concatenate(frames)
    events = find_events(
        frame,
        detector.frame_thresholds.cpu().numpy(),
        detector.frame_seconds,
        len(waveform) / detector.preset.sample_rate,
        options,
        clip=np.concatenate(clip_of_frames),
        clip_thresholds=detector.thresholds.cpu().numpy(),
    )
    return Prediction(np.concatenate(clips).max(axis=0), frame, events)


def log_mel_of(detector: Detector, waveform: Tensor) -> np.ndarray:
    """(frames, bands): what the detector hears of a waveform (samples,), before normalisation."""
    with torch.no_grad():
        features, _ = detector.front_end.log_mel(
            waveform[None].to(detector.thresholds.device), torch.tensor([len(waveform)])
        )
    return features[0].cpu().numpy()


def print_prediction(path: Path, prediction: Prediction, detector: Detector) -> None:
    """Print a file's tags, on lines that begin with #, and its events, tab-separated."""
    thresholds = detector.thresholds.cpu().numpy()
    for label in np.argsort(-prediction.clip, kind="stable"):
        if prediction.clip[label] >= thresholds[label]:
            name = detector.classes.names[label]
            print(f"# {path}\t{name}\t{prediction.clip[label]:.3f}")
    for event in prediction.events:
        name = detector.classes.names[event.label]
        print(f"{path}\t{event.onset:.3f}\t{event.offset:.3f}\t{name}\t{event.probability:.3f}")
    sys.stdout.flush()
    if not prediction.events and detector.network.has_frames:
        print(f"{path}: no event reaches its class's threshold", file=sys.stderr)


def _windows(detector: Detector, samples: int) -> list[tuple[int, int, int, int | None]]:
    """Start and end of each window in samples, and the range of its output frames to keep."""
    preset = detector.preset
    step_samples = preset.hop * detector.network.frame_reduction
    margin = round(_MARGIN_SECONDS / detector.frame_seconds)
    length = round(preset.clip_seconds / detector.frame_seconds)
    step = length - 2 * margin
    windows: list[tuple[int, int, int, int | None]] = []
    start = 0
    while True:
        first, end = start * step_samples, (start + length) * step_samples
        is_last = end >= samples
        keep = (margin if start else 0, None if is_last else length - margin)
        windows.append((first, min(end, samples), *keep))
        if is_last:
            return windows
        start += step


def _pictures(options: PredictOptions) -> list[Path]:
    """Where each file's picture goes; none without --plot."""
    plot = options.plot
    if plot is None:
        return []
    if plot.suffix.lower() in image_suffixes() and not plot.is_dir():
        if len(options.audio) > 1:
            raise UserError(
                f"{plot}: expected a folder for the pictures of {len(options.audio)} files, "
                "got the name of one picture"
            )
        plot.parent.mkdir(parents=True, exist_ok=True)
        return [plot]
    if plot.exists() and not plot.is_dir():
        raise UserError(f"{plot}: expected a folder or a picture's name, found another file")
    plot.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for audio in options.audio:
        path = plot / f"{audio.stem}.png"
        number = 1
        while path in pictures:
            number += 1
            path = plot / f"{audio.stem}-{number}.png"
        pictures.append(path)
    return pictures


def parse() -> PredictOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.predict", description=DESCRIPTION)
    add = parser.add_argument
    add("audio", type=Path, nargs="+", metavar="AUDIO", help="audio files of any format")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a run's model.pt")
    add(
        "--plot",
        type=Path,
        metavar="PATH",
        help="draw a picture of each file into this folder, or of one file under this name",
    )
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="one for all classes; default: each class's own, tuned in training",
    )
    add_median_options(parser)
    add("--max-gap", type=float, default=0.0, metavar="S", help="join events this close")
    add("--min-duration", type=float, default=0.0, metavar="S", help="drop events shorter")
    add("--device", default="cpu", help="cpu (default) or cuda")
    given = parser.parse_args()
    check_median_options(parser, given)
    options = PredictOptions(**vars(given))
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        parser.error(f"--threshold: expected a probability, got {options.threshold:g}")
    for name in ("max_gap", "min_duration"):
        seconds = getattr(options, name)
        if not 0 <= seconds < math.inf:
            option = name.replace("_", "-")
            parser.error(f"--{option}: expected seconds, 0 or more, got {seconds:g}")
    return options


DESCRIPTION = """Print one event a line: file, onset and offset in seconds, label, largest frame
probability, separated by tabs. Lines that begin with # are the tags of the clip: file, label,
probability; only tagged classes have events. Files that cannot be read are named on stderr and the
exit status is 1."""


if __name__ == "__main__":
    run_command(main, resumes=False)
