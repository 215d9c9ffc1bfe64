"""Reading AudioSet's own files: what is found, what is left out, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data.audioset import (
    INCOMPLETE,
    StrongLabel,
    read_segments,
    read_strong_labels,
    write_segments,
    write_strong_labels,
)
from models.data.classes import ClassList
from models.data.corpus import CorpusOptions, open_corpus, open_evaluation_set
from models.data.segments import Segment, SegmentList
from models.errors import UserError

CLASSES = ClassList(("/m/09x0r", "/t/dd00135", "/m/0bt9lr"), ("Speech", "Children shouting", "Dog"))
HEADER = "# Segments csv created\n# num_ytids=1, num_segs=1\n# YTID, start_seconds, end_seconds\n"
ROW = '--PJHxphWEs, 30.000, 40.000, "/m/0bt9lr,/m/09x0r"\n'
STRONG_HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"


def write_audio(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(1600, 0.1), 16000)
    return path


def write_segment_csv(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "segments.csv"
    path.write_text(header + rows)
    return path


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A folder with the audio of ROW."""
    return write_audio(tmp_path / "audio" / "--PJHxphWEs.flac").parent


@pytest.fixture
def corpus(tmp_path: Path, audio: Path) -> Path:
    """A complete corpus folder."""
    CLASSES.write(tmp_path / "class_labels_indices.csv")
    for split in ("train", "eval"):
        (tmp_path / f"{split}_segments.csv").write_text(HEADER + ROW)
    return tmp_path


def test_a_row_becomes_a_segment_named_as_strong_labels_name_it(
    tmp_path: Path, audio: Path
) -> None:
    segments = read_segments(write_segment_csv(tmp_path, ROW), audio, CLASSES)
    path = audio / "--PJHxphWEs.flac"
    assert list(segments) == [Segment("--PJHxphWEs_30000", path, 30.0, 40.0, (0, 2))]
    assert segments.labels.toarray().tolist() == [[True, False, True]]
    assert segments.missing == 0


@pytest.mark.parametrize(
    "name",
    [
        "--PJHxphWEs.wav",
        "Y--PJHxphWEs.flac",
        "--PJHxphWEs_30.wav",
        "--PJHxphWEs_30.000.ogg",
        "--PJHxphWEs_30000.WAV",
        "--PJHxphWEs_30_40.mp3",
        "--PJHxphWEs_30000_40000.aiff",
        "deep/er/--PJHxphWEs.au",
    ],
)
def test_audio_is_found_under_the_names_in_use(name: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "audio" / name)
    segments = read_segments(write_segment_csv(tmp_path, ROW), tmp_path / "audio", CLASSES)
    assert segments[0].path == path


def test_two_segments_of_a_recording_own_the_files_with_their_starts(tmp_path: Path) -> None:
    paths = [write_audio(tmp_path / "audio" / f"abc_{start}.wav") for start in (0, 10)]
    rows = 'abc, 0.000, 10.000, "/m/09x0r"\nabc, 10.000, 20.000, "/m/0bt9lr"\n'
    segments = read_segments(write_segment_csv(tmp_path, rows), tmp_path / "audio", CLASSES)
    assert [segment.path for segment in segments] == paths


def test_a_list_of_segments_takes_a_hundred_bytes_a_clip_and_its_parts_share_them() -> None:
    segments = SegmentList.of(
        (
            Segment(f"YTID-{index:06d}_30000", Path(f"/a/Y{index:011d}.wav"), 30.0, 40.0, (0, 2))
            for index in range(5000)
        ),
        len(CLASSES),
    )
    assert segments.nbytes < 120 * len(segments)
    part = segments.select(range(0, 5000, 2))
    assert part.columns is segments.columns
    assert part[-1].clip_id == "YTID-004998_30000"
    assert part[1:3].labels.toarray().tolist() == [[True, False, True]] * 2


def test_files_that_are_not_audio_are_passed_over(tmp_path: Path, audio: Path) -> None:
    (audio / "Y--PJHxphWEs.json").write_text("{}")
    (audio / "--PJHxphWEs_30.part").write_text("")
    segments = read_segments(write_segment_csv(tmp_path, ROW), audio, CLASSES)
    assert segments[0].path.suffix == ".flac"


def test_rows_without_audio_are_counted_with_one_warning(
    tmp_path: Path, audio: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 'gone, 0.000, 10.000, "/m/09x0r"\n' + ROW + 'lost, 0.000, 10.000, "/m/09x0r"\n'
    segments = read_segments(write_segment_csv(tmp_path, rows), audio, CLASSES)
    assert (len(segments), segments.missing) == (1, 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "left out 2 of 3 segments" in caplog.text
    assert "(first: gone_0)" in caplog.text


def test_a_row_may_have_no_label(tmp_path: Path, audio: Path) -> None:
    path = write_segment_csv(tmp_path, '--PJHxphWEs, 30.000, 40.000, ""\n')
    assert read_segments(path, audio, CLASSES)[0].labels == ()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('--PJHxphWEs, 30.0, 40.0, "/m/nope"\n', "line 4: the label /m/nope is not in the class"),
        ("--PJHxphWEs, 30.0, 40.0\n", "line 4: expected YTID, start_seconds, end_seconds"),
        (ROW + '--PJHxphWEs, 30.0, 40.0, /m/09x0r, "x"\n', "line 5: expected YTID"),
        ('--PJHxphWEs, thirty, 40.0, "/m/09x0r"\n', "line 4: expected 0 <= start < end"),
        ('--PJHxphWEs, 40.0, 30.0, "/m/09x0r"\n', "line 4: .*found 40.0 and 30.0"),
        ('--PJHxphWEs, nan, 30.0, "/m/09x0r"\n', "line 4: .*found nan and 30.0"),
        ("", "expected rows of segments, found none"),
        ('gone, 30.0, 40.0, "/m/09x0r"\n', r"none of its 1 segments \(first: gone_30000\)"),
        (ROW.replace("00,", "00\0,"), "after line|line 4"),
    ],
)
def test_a_faulty_segment_list_is_refused_by_file_and_line(
    rows: str, message: str, tmp_path: Path, audio: Path
) -> None:
    path = write_segment_csv(tmp_path, rows)
    with pytest.raises(UserError, match=rf"segments\.csv.*{message}"):
        read_segments(path, audio, CLASSES)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00a, 1, 2, 3\n"], ids=["empty", "not text"])
def test_a_file_that_is_no_segment_list_is_refused(
    content: bytes, tmp_path: Path, audio: Path
) -> None:
    (tmp_path / "segments.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"segments\.csv.*expected"):
        read_segments(tmp_path / "segments.csv", audio, CLASSES)


def test_a_missing_list_and_a_missing_audio_folder_are_named(tmp_path: Path, audio: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv: expected a file, found nothing there"):
        read_segments(tmp_path / "gone.csv", audio, CLASSES)
    with pytest.raises(UserError, match="nowhere: expected a folder of audio files"):
        read_segments(write_segment_csv(tmp_path, ROW), tmp_path / "nowhere", CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the header index,mid,display_name in line 1, found nothing"),
        ("mid,index\n", "expected the header index,mid,display_name in line 1, found mid,index"),
        ("index,mid,display_name\n", "expected at least one class"),
        ("index,mid,display_name\n1,/m/1,A\n", "line 2: expected 0,mid,display_name"),
        ("index,mid,display_name\n0,/m/1\n", "line 2: expected 0,mid,display_name"),
        ("index,mid,display_name\n0,/m/1,A\n1,/m/1,B\n", "line 3: /m/1 is listed twice"),
    ],
)
def test_a_faulty_class_list_is_refused_by_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(content)
    with pytest.raises(UserError, match=rf"classes\.csv.*{message}"):
        ClassList.read(tmp_path / "classes.csv")


def test_classes_keep_their_order_and_names_through_a_file(tmp_path: Path) -> None:
    names = ("Bee, wasp, etc.", 'A "quoted" name', "Ö")
    classes = ClassList(("/m/01h3n", "/m/2", "/m/3"), names)
    classes.write(tmp_path / "classes.csv")
    assert ClassList.read(tmp_path / "classes.csv") == classes
    assert classes.index("/m/2") == 1
    with pytest.raises(KeyError):
        classes.index("/m/4")


def test_segments_and_strong_labels_pass_through_their_files(tmp_path: Path, audio: Path) -> None:
    segment = Segment("--PJHxphWEs_30000", audio / "--PJHxphWEs.flac", 30.0, 40.0, (0, 2))
    write_segments(tmp_path / "s.csv", [segment], CLASSES)
    assert list(read_segments(tmp_path / "s.csv", audio, CLASSES)) == [segment]
    labels = [StrongLabel("a_0", 0.25, 1.5, 2), StrongLabel("a_0", 1.0, 2.0, 0)]
    write_strong_labels(tmp_path / "s.tsv", labels, CLASSES)
    assert read_strong_labels(tmp_path / "s.tsv", CLASSES) == {"a_0": labels}


def test_strong_labels_of_unlisted_classes_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "a_0\t0.0\t1.0\t/m/0bt9lr\na_0\t0.0\t1.0\t/m/x\nb_0\t0.0\t1.0\t/m/y\n"
    (tmp_path / "strong.tsv").write_text(STRONG_HEADER + rows)
    strong = read_strong_labels(tmp_path / "strong.tsv", CLASSES)
    assert strong == {"a_0": [StrongLabel("a_0", 0.0, 1.0, 2)]}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "left out 2 strong labels" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the tab-separated header"),
        ("a_0\t0.0\t1.0\t/m/09x0r\n", "expected the tab-separated header"),
        (STRONG_HEADER + "a_0\t0.0\t/m/09x0r\n", "line 2: expected four tab-separated values"),
        (STRONG_HEADER + "a_0\t2.0\t1.0\t/m/09x0r\n", "line 2: expected 0 <= start < end"),
        (STRONG_HEADER + "a_0\t0.0\t1.0\tDog\n", r"none of its labels \(first: Dog\)"),
    ],
)
def test_faulty_strong_labels_are_refused_by_file_and_line(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "strong.tsv").write_text(content)
    with pytest.raises(UserError, match=rf"strong\.tsv.*{message}"):
        read_strong_labels(tmp_path / "strong.tsv", CLASSES)


def test_a_corpus_opens_with_and_without_strong_labels(corpus: Path) -> None:
    assert open_corpus(corpus).strong == {}
    write_strong_labels(
        corpus / "eval_strong.tsv", [StrongLabel("--PJHxphWEs_30000", 0.0, 1.0, 0)], CLASSES
    )
    opened = open_corpus(corpus)
    assert opened.classes == CLASSES
    assert list(opened.strong) == [segment.clip_id for segment in opened.evaluation]


def test_audiosets_two_training_lists_are_taken_together(corpus: Path) -> None:
    (corpus / "train_segments.csv").rename(corpus / "balanced_train_segments.csv")
    assert len(open_corpus(corpus).train) == 1
    write_audio(corpus / "audio" / "Yabc.wav")
    rows = 'abc, 0.000, 10.000, "/m/09x0r"\ngone, 0.000, 10.000, "/m/09x0r"\n'
    (corpus / "unbalanced_train_segments.csv").write_text(HEADER + rows)
    train = open_corpus(corpus).train
    assert [segment.clip_id for segment in train] == ["--PJHxphWEs_30000", "abc_0"]
    assert train.missing == 1


@pytest.mark.parametrize(
    "name", ["class_labels_indices.csv", "train_segments.csv", "eval_segments.csv"]
)
def test_a_corpus_without_one_of_its_files_names_it(name: str, corpus: Path) -> None:
    (corpus / name).unlink()
    with pytest.raises(UserError, match=name):
        open_corpus(corpus)


def test_labels_that_the_class_list_lacks_can_be_ignored(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ClassList(("/m/09x0r",), ("Speech",)).write(corpus / "class_labels_indices.csv")
    for name, labels in (("dog", "/m/0bt9lr"), ("none", "")):
        write_audio(corpus / "audio" / f"{name}.wav")
        with (corpus / "train_segments.csv").open("a") as rows:
            rows.write(f'{name}, 0.000, 10.000, "{labels}"\n')
    with pytest.raises(UserError, match=r"/m/0bt9lr is not in .* or --ignore-unknown-labels"):
        open_corpus(corpus)
    with caplog.at_level(logging.WARNING):
        found = open_corpus(corpus, CorpusOptions(ignore_unknown_labels=True))
    # A clip whose labels are all of other classes is not a clip without sounds, as `none` is.
    assert [(clip.clip_id, clip.labels) for clip in found.train] == [
        ("--PJHxphWEs_30000", (0,)),
        ("none_0", ()),
    ]
    assert found.train.labels.shape == (2, 1)
    (message,) = (message for message in caplog.messages if "train_segments" in message)
    assert "left out 2 labels whose class is not in the class list (first: /m/0bt9lr)" in message
    assert "and 1 segments that have no other" in message


def test_lists_without_any_label_of_the_class_list_are_refused(corpus: Path) -> None:
    ClassList(("/m/other",), ("Other",)).write(corpus / "class_labels_indices.csv")
    with pytest.raises(UserError, match=r"none of its labels \(first: /m/0bt9lr\) is in the class"):
        open_corpus(corpus, CorpusOptions(ignore_unknown_labels=True))


def test_a_folder_of_no_known_kind_is_told_all_kinds(tmp_path: Path) -> None:
    kinds = (r"train_segments\.csv", r"\*train\*\.h5", r"\*train\*\.tar", r"metadata/\*\*/\*\.tsv")
    with pytest.raises(UserError, match=".*".join(kinds)):
        open_corpus(tmp_path)
    with pytest.raises(UserError, match=r"eval_segments\.csv.*eval\*\.h5"):
        open_evaluation_set(tmp_path)


def test_an_evaluation_set_needs_no_training_clips(corpus: Path) -> None:
    (corpus / "train_segments.csv").unlink()
    events = [StrongLabel("--PJHxphWEs_30000", 0.0, 1.0, 0)]
    write_strong_labels(corpus / "eval_strong.tsv", events, CLASSES)
    found = open_evaluation_set(corpus)
    assert [clip.clip_id for clip in found.clips] == ["--PJHxphWEs_30000"]
    assert found.classes == CLASSES
    assert found.strong == {"--PJHxphWEs_30000": events}


def test_an_evaluation_set_can_be_read_by_the_classes_of_a_detector(corpus: Path) -> None:
    (corpus / "class_labels_indices.csv").unlink()
    assert open_evaluation_set(corpus, CLASSES).clips[0].labels == (0, 2)
    with pytest.raises(UserError, match=r"class_labels_indices\.csv: expected a file"):
        open_evaluation_set(corpus)
    ClassList(CLASSES.mids[::-1], CLASSES.names[::-1]).write(corpus / "class_labels_indices.csv")
    with pytest.raises(UserError, match="expected the detector's 3 classes, found 3 others or in"):
        open_evaluation_set(corpus, CLASSES)


def test_a_corpus_that_is_not_there_or_half_written_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="gone: expected a corpus folder, found nothing there"):
        open_corpus(corpus / "gone")
    (corpus / INCOMPLETE).touch()
    with pytest.raises(UserError, match=r"half written: run the mix command .* again"):
        open_corpus(corpus)
