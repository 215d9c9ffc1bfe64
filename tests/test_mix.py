"""Mixing a corpus: what it holds, that it repeats and resumes, and what stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data import mixing, tables
from models.data.audioset import INCOMPLETE
from models.data.corpus import open_corpus
from models.data.events import BACKGROUNDS, read_event_bank, synthesise_event_bank, trim
from models.data.mixing import MixOptions, mix_corpus
from models.data.scenes import plan_clip, render_clip
from models.errors import UserError

RATE = 8000
REPOSITORY = Path(__file__).parents[1]


def small(out: Path, **changes: object) -> MixOptions:
    return replace(MixOptions(out, train=6, evaluation=4, sample_rate=RATE, seconds=4), **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_bank(folder: Path, table: str | None = None) -> Path:
    """Two classes: two tones with quiet ends and a burst of noise of 3 s."""
    folder.mkdir(parents=True)
    t = np.arange(RATE) / RATE
    tone = np.pad(0.5 * np.sin(880 * np.pi * t), (RATE // 4, RATE // 2))
    tone += np.random.default_rng(1).normal(0, 0.001, len(tone))
    soundfile.write(folder / "tone.wav", tone, RATE)
    soundfile.write(folder / "high.flac", np.stack([tone, tone], axis=1), RATE)
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    soundfile.write(folder / "noise.wav", noise, RATE)
    default = (
        "filename,mid,display_name,seconds\n"
        'tone.wav,/m/01v_m0,"Sine wave",1\n'
        'high.flac,/m/01v_m0,"Sine wave",1\n'
        'noise.wav,/m/096m7z,"Noise, loud",3\n'
    )
    (folder / "events.csv").write_text(default if table is None else table)
    return folder


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mix_corpus(small(tmp_path_factory.mktemp("mix") / "corpus"), progress=False)


def test_a_mixed_corpus_opens_as_audioset_does(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    assert (len(corpus.train), len(corpus.evaluation), len(corpus.classes)) == (6, 4, 8)
    assert corpus.train.missing == 0
    header = (corpus_folder / "train_segments.csv").read_text().splitlines()[:3]
    assert all(line.startswith("#") for line in header)
    assert json.loads((corpus_folder / "corpus.json").read_text())["options"]["train"] == 6
    assert not (corpus_folder / INCOMPLETE).exists()


def test_every_clip_is_of_the_asked_length_and_rate_in_16_bits_below_full_scale(
    corpus_folder: Path,
) -> None:
    corpus = open_corpus(corpus_folder)
    for segment in [*corpus.train, *corpus.evaluation]:
        info = soundfile.info(segment.path)
        assert (info.samplerate, info.frames, info.subtype) == (RATE, 4 * RATE, "PCM_16")
        assert 0.001 < np.abs(soundfile.read(segment.path)[0]).max() < 0.96


def test_strong_labels_lie_within_the_clip_and_agree_with_the_weak_ones(
    corpus_folder: Path,
) -> None:
    corpus = open_corpus(corpus_folder)
    for segment in corpus.evaluation:
        events = corpus.strong[segment.clip_id]
        assert all(0 <= event.onset < event.offset <= 4 for event in events)
        assert tuple(sorted({event.label for event in events})) == segment.labels


def test_training_clips_have_no_strong_labels(corpus_folder: Path) -> None:
    assert all(clip.startswith("eval-") for clip in open_corpus(corpus_folder).strong)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(
    corpus_folder: Path, tmp_path: Path
) -> None:
    again = contents(mix_corpus(small(tmp_path / "again"), progress=False))
    other = contents(mix_corpus(small(tmp_path / "other", seed=1), progress=False))
    assert again == contents(corpus_folder)
    assert other["audio/train/train-000000.flac"] != again["audio/train/train-000000.flac"]


def test_no_clip_is_mixed_twice(corpus_folder: Path) -> None:
    clips = [path.read_bytes() for path in corpus_folder.rglob("*.flac")]
    assert len(set(clips)) == len(clips) == 10


def test_more_clips_leave_the_first_ones_as_they_are(corpus_folder: Path, tmp_path: Path) -> None:
    more = contents(mix_corpus(small(tmp_path / "more", train=9), progress=False))
    clips = {name: data for name, data in contents(corpus_folder).items() if "audio" in name}
    assert clips.items() <= more.items()


@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_run_goes_on_to_the_identical_corpus(
    stop: int, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []

    def render(*args: object) -> np.ndarray:
        if len(rendered) == stop:
            raise KeyboardInterrupt
        rendered.append(args)
        return render_clip(*args)

    options = small(tmp_path / "corpus")
    with monkeypatch.context() as patch:
        patch.setattr(mixing, "render_clip", render)
        with pytest.raises(KeyboardInterrupt):
            mix_corpus(options, progress=False)
    with pytest.raises(UserError, match="half written"):
        open_corpus(options.out)
    kept = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.flac")}
    assert len(kept) == stop
    # A run that is killed outright may also leave half a file under its temporary name.
    started = [f"train/train-{i:06d}" for i in range(6)] + [f"eval/eval-{i:06d}" for i in range(4)]
    (options.out / "audio" / f"{started[stop]}.flac.part").write_bytes(b"fLaC")
    mix_corpus(options, progress=False)
    assert contents(options.out) == contents(corpus_folder)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in kept}.items()


def test_a_full_disk_is_named_and_loses_nothing(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = small(tmp_path / "corpus")
    write_bytes = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if "train-000003" in path.name:
            write_bytes(path, data[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(tables.Path, "write_bytes", write)
        with pytest.raises(UserError, match=r"train-000003.flac: cannot be written .*No space"):
            mix_corpus(options, progress=False)
    assert not list(options.out.rglob("*.part"))
    mix_corpus(options, progress=False)
    assert contents(options.out) == contents(corpus_folder)


def test_a_finished_corpus_is_left_as_it_is(corpus_folder: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in corpus_folder.rglob("*")}
    mix_corpus(small(corpus_folder), progress=False)
    assert times == {path: path.stat().st_mtime_ns for path in corpus_folder.rglob("*")}


def test_other_options_do_not_touch_a_corpus(corpus_folder: Path) -> None:
    before = contents(corpus_folder)
    with pytest.raises(UserError, match=r"output folder in use.*train: 6 there, 7 now"):
        mix_corpus(small(corpus_folder, train=7), progress=False)
    assert contents(corpus_folder) == before


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter")
    with pytest.raises(UserError, match=r"output folder in use.*choose another --out"):
        mix_corpus(small(tmp_path), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out: expected a folder to write to, found a file"):
        mix_corpus(small(tmp_path / "out"), progress=False)


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_an_event_is_as_far_above_the_background_as_asked(snr: float, tmp_path: Path) -> None:
    options = small(
        tmp_path / "corpus", evaluation=12, snr=(snr,), events_per_clip=(1, 1), format="wav"
    )
    corpus = open_corpus(mix_corpus(options, progress=False))
    measured = []
    for segment in corpus.evaluation:
        clip, _ = soundfile.read(segment.path)
        during = np.zeros(len(clip), dtype=bool)
        for event in corpus.strong[segment.clip_id]:
            during[round(event.onset * RATE) : round(event.offset * RATE)] = True
        background = np.mean(clip[~during] ** 2)
        measured.append(10 * np.log10(np.mean(clip[during] ** 2) / background - 1))
    # The background's level drifts, so that one clip may be off by a few decibels.
    assert np.median(measured) == pytest.approx(snr, abs=1.5)


@pytest.mark.parametrize(
    ("snr", "allowed"),
    [
        ((5.0,), lambda x: x == 5),
        ((0.0, 10.0), lambda x: 0 <= x <= 10),
        ((0.0, 10.0, 20.0), lambda x: x in (0, 10, 20)),
    ],
    ids=["one value", "a range", "a choice"],
)
def test_snr_is_a_value_a_range_or_a_choice(snr, allowed, tmp_path: Path) -> None:
    options = small(tmp_path, snr=snr)
    bank = synthesise_event_bank(RATE, 0)
    drawn = {e.snr for index in range(30) for e in plan_clip(bank, options, "train", index)}
    assert all(allowed(value) for value in drawn)
    assert len(drawn) >= len(snr)


def test_classes_are_about_equally_frequent_and_never_overlap_themselves(tmp_path: Path) -> None:
    options = small(tmp_path, seconds=10, events_per_clip=(1, 3))
    bank = synthesise_event_bank(RATE, 0)
    clips: Counter[int] = Counter()
    sizes = set()
    for index in range(160):
        plan = plan_clip(bank, options, "train", index)
        sizes.add(len({event.label for event in plan}))
        clips.update({event.label for event in plan})
        for label in {event.label for event in plan}:
            mine = [event for event in plan if event.label == label]
            for first, second in pairwise(mine):
                assert first.onset + len(first.waveform) <= second.onset
    assert sizes == {1, 2, 3}
    assert max(clips.values()) < 1.5 * min(clips.values())


def test_real_recordings_are_mixed_trimmed_and_cut(tmp_path: Path) -> None:
    options = small(tmp_path / "corpus", events=write_bank(tmp_path / "bank"), evaluation=12)
    corpus = open_corpus(mix_corpus(replace(options, events_per_clip=(1, 2)), progress=False))
    assert corpus.classes.names == ("Sine wave", "Noise, loud")
    lengths = {
        label: [
            e.offset - e.onset
            for events in corpus.strong.values()
            for e in events
            if e.label == label
        ]
        for label in (0, 1)
    }
    assert lengths[0] == pytest.approx([1.0] * len(lengths[0]), abs=0.03)
    assert lengths[1] == pytest.approx([2.0] * len(lengths[1]), abs=0.03)


def test_a_recording_of_silence_between_two_sounds_can_be_cut_anywhere(tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank", "filename,mid,display_name\npause.wav,/m/1,Pause\n")
    pause = np.zeros(20 * RATE)
    pause[:400] = pause[-400:] = np.random.default_rng(0).normal(0, 0.1, 400)
    soundfile.write(bank / "pause.wav", pause, RATE)
    options = small(tmp_path / "corpus", events=bank, events_per_clip=(1, 1))
    corpus = open_corpus(mix_corpus(options, progress=False))
    assert all(corpus.strong[segment.clip_id] for segment in corpus.evaluation)


def test_trimming_leaves_nothing_of_silence() -> None:
    assert len(trim(np.zeros(1000, dtype=np.float32), RATE)) == 0
    assert len(trim(np.zeros(0, dtype=np.float32), RATE)) == 0


def test_the_synthetic_bank_has_short_and_long_events_of_eight_classes() -> None:
    bank = synthesise_event_bank(16000, 0)
    seconds = [len(bank.waveform(event)) / 16000 for event in bank.events]
    assert len(bank.classes) == 8
    assert min(seconds) < 0.4
    assert max(seconds) > 3
    assert all(np.isfinite(event.source).all() for event in bank.events)
    assert all(len({event.source.tobytes() for event in events}) > 1 for events in bank.by_class)


@pytest.mark.parametrize(("name", "slope"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_backgrounds_fall_by_their_decibels_per_octave(name: str, slope: float) -> None:
    noise = BACKGROUNDS[name](np.random.default_rng(0), 2**16)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in range(9, 15)]
    assert np.polyfit(range(6), octaves, 1)[0] == pytest.approx(slope, abs=0.5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("filename,display_name\ntone.wav,Tone\n", "columns filename, mid, display_name in line 1"),
        ("", "columns filename, mid, display_name in line 1, found nothing"),
        ("filename,mid,display_name\n", "expected rows of recordings, found none"),
        ("filename,mid,display_name\ntone.wav,/m/1\n", "line 2: expected 3 values"),
        ("filename,mid,display_name\ntone.wav,a b,Tone\n", "line 2: .*class id without spaces"),
        ("filename,mid,display_name\ngone.wav,/m/1,Tone\n", "gone.wav: .*no such file"),
        ("filename,mid,display_name\nevents.csv,/m/1,Tone\n", "events.csv: expected an audio file"),
        (
            "filename,mid,display_name\ntone.wav,/m/1,Tone\nnoise.wav,/m/1,Noise\n",
            "line 3: /m/1 is called Noise here and Tone above",
        ),
    ],
)
def test_a_faulty_bank_is_refused_by_name(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_event_bank(write_bank(tmp_path / "bank", table))


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_a_bank_without_its_table_is_refused(make, tmp_path: Path) -> None:
    make(tmp_path / "bank")
    with pytest.raises(UserError, match=r"bank.*: expected a"):
        read_event_bank(tmp_path / "bank")


def test_a_silent_recording_is_refused_by_name(tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank")
    soundfile.write(bank / "tone.wav", np.zeros(RATE), RATE)
    options = small(tmp_path / "corpus", events=bank, events_per_clip=(1, 1), train=20)
    with pytest.raises(UserError, match=r"tone.wav: .*silent"):
        mix_corpus(options, progress=False)
    assert not options.out.exists()


def test_a_changed_bank_is_another_corpus(tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "bank")
    options = small(tmp_path / "corpus", events=bank, events_per_clip=(1, 1))
    mix_corpus(options, progress=False)
    soundfile.write(bank / "tone.wav", np.ones(RATE // 2), RATE)
    with pytest.raises(UserError, match=r"output folder in use.*bank"):
        mix_corpus(options, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 0}, "--train: expected at least 1 clip, found 0"),
        ({"evaluation": -1}, "--eval: expected at least 1 clip, found -1"),
        ({"seed": -1}, "--seed"),
        ({"snr": ()}, "--snr"),
        ({"snr": (float("nan"),)}, "--snr"),
        ({"snr": (10.0, 0.0)}, "--snr: expected the lower end of the range first, found 10.0 0.0"),
        ({"sample_rate": 100}, "--sample-rate"),
        ({"seconds": 0.1}, "--seconds"),
        ({"events_per_clip": (2, 1)}, "--events-per-clip"),
        ({"events_per_clip": (1, 9)}, "--events-per-clip: the bank has 8 classes"),
        ({"format": "mp3"}, "--format: expected flac or wav, found mp3"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(changes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        mix_corpus(small(tmp_path / "corpus", **changes), progress=False)
    assert not (tmp_path / "corpus").exists()


def start_mix(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "models.mix", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def test_the_program_reports_bad_input_in_one_line(tmp_path: Path) -> None:
    program = start_mix("--out", tmp_path, "--train", 1, "--eval", 1, "--events", tmp_path / "x")
    output, errors = program.communicate()
    assert (program.returncode, output) == (1, "")
    assert (
        errors == f"error: {tmp_path / 'x'}: expected a folder of recordings, found nothing there\n"
    )


def test_an_interrupt_ends_in_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    program = start_mix("--out", tmp_path / "corpus", "--train", 40, "--eval", 1)
    while not list(tmp_path.rglob("*.flac")):
        assert program.poll() is None
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate()
    assert program.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted: run the same command again")
    assert "Traceback" not in errors
    mix_corpus(MixOptions(tmp_path / "corpus", train=40, evaluation=1), progress=False)
    assert len(open_corpus(tmp_path / "corpus").train) == 40
