"""DESED's lists: weak, strong and unlabelled clips, and batches of all three."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.corpus import CorpusOptions, open_corpus, open_evaluation_set
from models.data.part_batches import PartBatches
from models.data.sampling import BalancedBatchSampler
from models.data.segments import Segment
from models.errors import UserError
from models.features import PRESETS
from models.fuse import FuseOptions, fuse
from models.step_batches import StepBatches
from models.train import train
from models.train_options import TrainOptions
from models.training_data import LoadingOptions, TrainingData

WEAK = "filename\tevent_labels\n"
STRONG = "filename\tonset\toffset\tevent_label\n"


def write_list(folder: Path, name: str, text: str, *files: str) -> None:
    path = folder / "metadata" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for index, file in enumerate(files):
        audio = folder / "audio" / name / file
        audio.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).normal(0, 0.1, 16000)
        soundfile.write(audio, noise, 16000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight weak, four strong and three unlabelled training clips, two evaluation clips."""
    weak = [f"w{index}.wav" for index in range(8)]
    rows = "".join(f"{name}\t{'Dog,Cat' if i % 2 else 'Dog'}\n" for i, name in enumerate(weak))
    write_list(tmp_path, "train/weak", f"{WEAK}{rows}gone.wav\tDog\n", *weak)
    strong = "1.wav\t0.1\t0.5\tCat\n1.wav\t0.2\t0.9\tDog\n2.wav\t\t\t\n3.wav\t0\t1\tDog\n"
    files = [f"{index}.wav" for index in range(1, 5)]
    rows = f"{STRONG}{strong}4.wav\t0.5\t1.0\tCat\n"
    write_list(tmp_path, "train/synthetic/soundscapes", rows, *files)
    unlabelled = [f"u{index}.wav" for index in range(3)]
    write_list(
        tmp_path, "train/unlabel_in_domain", "\n".join(["filename", *unlabelled]), *unlabelled
    )
    rows = f"{STRONG}1.wav\t0.3\t0.6\tCat\n2.wav\t0.0\t0.4\tDog\n"
    write_list(tmp_path, "validation/validation", rows, "1.wav", "2.wav")
    return tmp_path


def test_each_list_is_read_for_what_it_is(folder: Path) -> None:
    corpus = open_corpus(folder)
    assert corpus.classes.names == ("Cat", "Dog")
    assert (len(corpus.train), len(corpus.evaluation), len(corpus.unlabelled)) == (12, 2, 3)
    labels = {clip.clip_id: clip.labels for clip in corpus.train}
    assert labels["train/weak/w0"] == (1,)
    assert labels["train/weak/w1"] == (0, 1)
    assert labels["train/synthetic/soundscapes/1"] == (0, 1)
    assert labels["train/synthetic/soundscapes/2"] == ()
    name = "train/synthetic/soundscapes/1"
    assert corpus.train_strong[name] == [
        StrongLabel(name, 0.1, 0.5, 0),
        StrongLabel(name, 0.2, 0.9, 1),
    ]
    assert corpus.train_strong["train/synthetic/soundscapes/2"] == []
    assert list(corpus.strong) == ["validation/validation/1", "validation/validation/2"]
    # Files of the same name belong to the list whose folder they are in.
    assert corpus.evaluation[0].path == folder / "audio/validation/validation/1.wav"
    assert not corpus.unlabelled.labels.nnz


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """The folder of the DESED baseline: lists of durations, parts of the validation list, a
    synthetic validation set, audio at 16 kHz beside or in place of the original."""
    weak = [f"w{index}.wav" for index in range(8)]
    rows = "".join(f"{name}\tDog\n" for name in weak)
    write_list(tmp_path, "train/weak", f"{WEAK}{rows}", *weak)
    (tmp_path / "audio/train/weak").rename(tmp_path / "audio/train/weak_16k")
    for split in ("train", "validation"):
        folder = f"{split}/synthetic21_{split}"
        write_list(
            tmp_path,
            f"{folder}/soundscapes",
            f"{STRONG}0.wav\t0.1\t0.5\tCat\n1.wav\t0.1\t0.5\tDog\n",
            *("0.wav", "1.wav"),
        )
        audio = tmp_path / "audio" / folder
        (audio / "soundscapes").rename(audio / "soundscapes_16k")
        durations = "filename\tduration\n0.wav\t1.0\n1.wav\t1.0\n"
        write_list(tmp_path, f"{folder}/durations", durations)
    real = [f"Y{index}.wav" for index in range(3)]
    events = [f"{name}\t0.2\t0.6\tDog\n" for name in real]
    write_list(tmp_path, "validation/validation", STRONG + "".join(events), *real)
    write_list(tmp_path, "validation/test_dcase2018", STRONG + "".join(events[:2]))
    write_list(tmp_path, "validation/eval_dcase2018", STRONG + "".join(events[1:]))
    durations = "filename\tduration\n" + "".join(f"{name}\t1.0\n" for name in real)
    write_list(tmp_path, "validation/validation_durations", durations)
    write_list(tmp_path, "eval/public", f"{STRONG}p.wav\t0.0\t0.5\tCat\n", "p.wav")
    return tmp_path


SYNTHETIC = "validation/synthetic21_validation/soundscapes"


def names_of(clips: Iterable[Segment]) -> list[str]:
    return [clip.clip_id for clip in clips]


def test_the_folder_of_the_baseline_is_read(
    baseline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(baseline)
    assert len(corpus.train) == 10
    assert names_of(corpus.evaluation) == [f"validation/validation/Y{index}" for index in range(3)]
    assert list(corpus.strong) == names_of(corpus.evaluation)
    assert corpus.held_out is None
    (message,) = caplog.messages
    assert "evaluation on validation/validation and not on eval/public," in message
    # Its soundscapes have the same names in training and validation.
    synthetic = [clip.path for clip in corpus.train if "synthetic21" in clip.clip_id]
    folder = baseline / "audio/train/synthetic21_train/soundscapes_16k"
    assert synthetic == [folder / "0.wav", folder / "1.wav"]


def test_an_audio_file_counts_once_however_many_lists_name_it(baseline: Path) -> None:
    (baseline / "metadata/validation/validation.tsv").unlink()
    corpus = open_corpus(baseline)
    assert names_of(corpus.evaluation) == [
        "eval/public/p",
        "validation/eval_dcase2018/Y1",
        "validation/eval_dcase2018/Y2",
        "validation/test_dcase2018/Y0",
    ]
    assert list(corpus.strong) == names_of(corpus.evaluation)


def test_of_a_file_in_a_weak_and_a_strong_list_the_events_are_kept(baseline: Path) -> None:
    write_list(baseline, "train/audioset_strong", f"{STRONG}w3.wav\t0.0\t0.5\tCat\n")
    corpus = open_corpus(baseline)
    labels = {clip.path.stem: clip.labels for clip in corpus.train if "synth" not in clip.clip_id}
    assert len(corpus.train) == 10
    assert labels["w3"] == (0,) and labels["w2"] == (1,)
    assert corpus.train_strong["train/audioset_strong/w3"][0].label == 0


def test_lists_of_the_evaluation_can_be_named(baseline: Path) -> None:
    names = ("eval/public", f"{SYNTHETIC}.tsv")
    corpus = open_corpus(baseline, CorpusOptions(eval_lists=names))
    assert names_of(corpus.evaluation) == ["eval/public/p", f"{SYNTHETIC}/0", f"{SYNTHETIC}/1"]


def test_the_synthetic_validation_set_can_be_held_out(baseline: Path, tmp_path: Path) -> None:
    options = CorpusOptions(held_out_lists=(SYNTHETIC,))
    corpus = open_corpus(baseline, options)
    held_out = [corpus.train[index] for index in corpus.held_out.tolist()]
    assert names_of(held_out) == [f"{SYNTHETIC}/0", f"{SYNTHETIC}/1"]
    assert {*names_of(held_out)} <= {*corpus.train_strong}
    data = TrainingData(corpus, PRESETS["dcase2017"], LoadingOptions(batch_size=2))
    names = [name for batch in data.held_out_dataloader() for name in batch.clip_ids]
    assert names == names_of(held_out)
    learned = {corpus.train[index].clip_id for batch in data.batches for index in batch}
    assert learned and learned.isdisjoint(names)


def test_a_run_that_held_a_list_out_is_fused_with_thresholds_from_that_list(
    baseline: Path, tmp_path: Path
) -> None:
    options = TrainOptions(
        baseline,
        tmp_path / "run",
        epochs=1,
        batch_size=4,
        model_options={"channels": [2, 2, 4], "gru_width": 4},
        accelerator="cpu",
        devices="1",
        eval_lists=("eval/public",),
        held_out_lists=(SYNTHETIC,),
    )
    trained = train(options)
    fusion = FuseOptions((options.out,), baseline, tmp_path / "out", eval_lists=options.eval_lists)
    fused = fuse(fusion)
    assert fused["clips"] == trained["clips"] == 1
    assert fused["thresholds"] == "tuned on the clips that the runs held out"
    assert fused["classes"] == trained["classes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"eval_lists": ("validation/gone",)},
            r"one of its labelled lists \(eval/public, .*got val",
        ),
        ({"held_out_lists": ("train/unknown",)}, r"got train/unknown"),
        (
            {"eval_lists": (SYNTHETIC,), "held_out_lists": (SYNTHETIC,)},
            "hold out or to evaluate on",
        ),
        (
            {"held_out_lists": ("train/weak", "train/synthetic21_train/soundscapes")},
            "training clips",
        ),
    ],
)
def test_names_of_lists_that_cannot_be_used_are_refused(
    options: dict[str, tuple[str, ...]], message: str, baseline: Path
) -> None:
    with pytest.raises(UserError, match=message):
        open_corpus(baseline, CorpusOptions(**options))


def test_labels_that_the_class_list_lacks_can_be_ignored(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ClassList(("/m/dog",), ("Dog",)).write(folder / "class_labels_indices.csv")
    with pytest.raises(UserError, match=r"Cat of .* or --ignore-unknown-labels"):
        open_corpus(folder)
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(folder, CorpusOptions(ignore_unknown_labels=True))
    # Of the strong clips 4 holds a cat alone, and 2 nothing.
    strong = {name.rpartition("/")[2]: events for name, events in corpus.train_strong.items()}
    assert {name: len(events) for name, events in strong.items()} == {"1": 1, "2": 0, "3": 1}
    assert names_of(corpus.evaluation) == ["validation/validation/2"]
    (message,) = caplog.messages
    assert "left out 7 labels whose class is not in the class list (first: Cat), and 2" in message


def test_an_evaluation_set_needs_no_training_lists(baseline: Path) -> None:
    shutil.rmtree(baseline / "metadata/train")
    found = open_evaluation_set(baseline, options=CorpusOptions(("eval/public",)))
    assert names_of(found.clips) == [*found.strong] == ["eval/public/p"]
    # The classes of a detector, or those that the lists name.
    assert found.classes.names == ("Cat", "Dog")
    assert open_evaluation_set(baseline, ClassList(("Dog", "Cat"), ("Dog", "Cat"))).clips[
        0
    ].labels == (0,)


def test_other_corpora_have_no_lists_to_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a corpus of DESED's lists, found no TSV file"):
        open_corpus(tmp_path, CorpusOptions(eval_lists=("validation/validation",)))


def test_a_class_list_gives_order_and_names(folder: Path) -> None:
    classes = ClassList(("/m/dog", "/m/cat", "/m/cow"), ("Dog", "Cat", "Cow"))
    classes.write(folder / "class_labels_indices.csv")
    corpus = open_corpus(folder)
    assert corpus.classes == classes
    assert corpus.train.labels.shape == (12, 3)
    assert corpus.strong["validation/validation/1"][0].label == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\tlabel\n", r"weak\.tsv: expected the tab-separated header"),
        (f"{WEAK}w0.wav\tDog\tCat\n", r"weak\.tsv, line 2: expected filename event_labels"),
        (f"{STRONG}w0.wav\t0.5\t0.1\tDog\n", r"line 2: expected 0 <= onset < offset"),
        (f"{STRONG}w0.wav\tx\t0.1\tDog\n", r"line 2: expected 0 <= onset < offset"),
        (f"{WEAK}w0.wav\tCow\n", r"the label Cow of w0\.wav is not in the class list"),
    ],
)
def test_a_faulty_list_is_refused_by_file_and_line(text: str, message: str, folder: Path) -> None:
    ClassList(("/m/dog", "/m/cat"), ("Dog", "Cat")).write(folder / "class_labels_indices.csv")
    (folder / "metadata" / "train" / "weak.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_corpus(folder)


def test_lists_without_audio_or_evaluation_are_refused(folder: Path) -> None:
    (folder / "metadata/validation/validation.tsv").unlink()
    with pytest.raises(UserError, match="expected labelled evaluation clips in the lists"):
        open_corpus(folder)


def parts(seed: int = 0) -> PartBatches:
    indices = [np.arange(5), np.arange(5, 25), np.arange(25, 28)]
    labels = [[(i % 2,) for i in range(5)], [(i % 4,) for i in range(20)], [()] * 3]
    samplers = [BalancedBatchSampler(*pair, seed) for pair in zip(labels, (2, 4, 2), strict=True)]
    return PartBatches(samplers, indices, labelled=2)


def test_a_batch_has_so_many_clips_of_each_part() -> None:
    batches = list(parts())
    assert len(batches) == len(parts()) == 5
    for batch in batches:
        assert [index < 5 for index in batch[:2]] == [True] * 2
        assert [5 <= index < 25 for index in batch[2:6]] == [True] * 4
        assert [index >= 25 for index in batch[6:]] == [True] * 2
    assert len({index for batch in batches for index in batch[2:6]}) == 20
    assert batches == list(parts())
    later = parts()
    later.set_epoch(1)
    assert list(later) != batches


def test_processes_share_each_part() -> None:
    shares = [list(islice(StepBatches(parts(), rank, 2), 3)) for rank in range(2)]
    for batch, *pieces in zip(parts(), *shares, strict=False):
        for piece in pieces:
            assert [index // 5 > 0 for index in piece] == [False, True, True, True]
        assert sorted(index for piece in pieces for index in piece) == sorted(batch)


@pytest.mark.parametrize("cache", [False, True])
def test_a_mean_teacher_learns_from_all_three_parts(
    cache: bool, folder: Path, tmp_path: Path
) -> None:
    options = TrainOptions(
        folder,
        tmp_path / "run",
        epochs=1,
        batch_size=6,
        mean_teacher=(2, 2, 2),
        held_out=0.25,
        model_options={"channels": [2, 2, 4], "gru_width": 4},
        accelerator="cpu",
        devices="1",
        cache_features=cache,
    )
    metrics = train(options)
    assert metrics["clips"] == metrics["strongly_labelled_clips"] == 2


@pytest.mark.parametrize("cache", [False, True])
def test_clips_that_are_longer_than_the_features_hear_are_counted_once(
    cache: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * 16000)
    for name in ("train/weak/w1", "validation/validation/2"):
        soundfile.write(folder / f"audio/{name}.wav", noise, 16000)
    options = TrainOptions(
        folder,
        tmp_path / "run",
        epochs=2,
        batch_size=4,
        held_out=0.25,
        model_options={"channels": [2, 2, 4], "gru_width": 4},
        accelerator="cpu",
        devices="1",
        cache_features=cache,
    )
    train(options)
    said = [line for line in capsys.readouterr().err.splitlines() if "longer" in line]
    assert said == [
        "2 clips are longer than 10 s: only the first 10 s of them are heard, and true events "
        "after that do not count"
    ]


def test_a_part_that_the_corpus_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata/train/unlabel_in_domain.tsv").unlink()
    options = TrainOptions(
        folder, tmp_path / "run", batch_size=6, mean_teacher=(2, 2, 2), held_out=0.25
    )
    with pytest.raises(UserError, match="expected unlabelled training clips for --mean-teacher"):
        train(options)
