"""Files of noise, cut files and files that carry code: one line about them, and nothing is run."""

import ast
import csv
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from models.checkpoint import load_saved, save_atomically
from models.data.audio import decode_audio, load_audio
from models.data.classes import ClassList
from models.data.clips import Clip, ClipDataset, Unreadable
from models.data.corpus import open_corpus
from models.data.events import read_event_bank
from models.data.packs import read_packs
from models.data.shards import ClipStream, StreamOptions
from models.detector import Detector, DetectorSpec, detector_content, load_detector
from models.errors import UserError
from models.run_checkpoints import AtomicCheckpointIO
from models.run_folder import RunFolder

EXAMPLES = int(os.environ.get("MILKERNELS_EXAMPLES", "8"))
CLASSES = ClassList(("/m/a", "/m/b"), ("A", "B"))
RATE = 8000


class Payload:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, how a good one is written, and how it is read.

    What cannot be read is a UserError, or an `Unreadable` among the clips that `read` returns.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]


def write_detector(path: Path) -> None:
    network = {"channels": [2, 2, 2], "gru_width": 2}
    detector = Detector(DetectorSpec("dcase2017_crnn", None, None, network), CLASSES)
    content = detector_content(detector)
    if path.suffix == ".safetensors":
        state = content.pop("state")
        state = {name: value.contiguous() for name, value in state.items()}
        save_file(state, path, {"detector": json.dumps(content)})
    else:
        save_atomically(content, path)


def write_checkpoint(path: Path) -> None:
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
    save_atomically({**dict.fromkeys(parts, 0), "state_dict": {"weight": torch.rand(50)}}, path)


def sound(seconds: float = 0.2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def write_sound(path: Path) -> None:
    soundfile.write(path, sound(), RATE)


def write_pack(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["waveform"] = np.full((3, 400), 100, np.int16)
        file["target"] = np.array([[True, False], [False, True], [True, True]])
        file["audio_name"] = np.array([b"Ya.wav", b"Yb.wav", b"Yc.wav"])
        file["length"] = np.array([400, 100, 300], np.int32)
        file.attrs["sample_rate"] = RATE


def write_shard(path: Path) -> None:
    with tarfile.open(path, "w") as shard:
        for number in range(3):
            data = io.BytesIO()
            soundfile.write(data, sound(), RATE, format="flac")
            for end, content in (("flac", data.getvalue()), ("json", b'{"labels": [1]}')):
                add_member(shard, f"clip{number}.{end}", content)


def add_member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def write_table(path: Path) -> None:
    rows = {
        "class_labels_indices.csv": [["index", "mid", "display_name"], ["0", "/m/a", "A"]],
        "train_segments.csv": [["# AudioSet"], ["abc", "0.0", "10.0", "/m/a"]],
        "eval_strong.tsv": [
            ["segment_id", "start_time_seconds", "end_time_seconds", "label"],
            ["abc_0", "1.0", "2.0", "/m/a"],
        ],
        "weak.tsv": [["filename", "event_labels"], ["abc.wav", "A"]],
        "events.csv": [["filename", "mid", "display_name"], ["audio/abc.wav", "/m/a", "A"]],
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows(rows[path.name])


def read_clips(clips: object) -> list[Clip | Unreadable]:
    dataset = ClipDataset(clips, 2, RATE, 0.2)
    return [dataset[index] for index in range(len(dataset))]


def read_corpus(path: Path) -> object:
    """A corpus folder of AudioSet's kind around the table that is read."""
    folder = path.parent
    (folder / "audio").mkdir(exist_ok=True)
    write_sound(folder / "audio" / "abc.wav")
    for name in ("class_labels_indices.csv", "train_segments.csv", "eval_strong.tsv"):
        if not (folder / name).exists():
            write_table(folder / name)
    evaluation = folder / "eval_segments.csv"
    if not evaluation.exists():
        evaluation.write_text("abc, 0.0, 10.0, /m/a\n")
    return open_corpus(folder)


def read_lists(path: Path) -> object:
    """DESED's lists, of which `path` is one."""
    folder = path.parent / "desed"
    for part in ("train", "eval"):
        (folder / "metadata" / part).mkdir(parents=True, exist_ok=True)
        (folder / "metadata" / part / "weak.tsv").write_bytes(path.read_bytes())
    (folder / "audio").mkdir(exist_ok=True)
    write_sound(folder / "audio" / "abc.wav")
    return open_corpus(folder)


def read_events(path: Path) -> object:
    (path.parent / "audio").mkdir(exist_ok=True)
    write_sound(path.parent / "audio" / "abc.wav")
    return read_event_bank(path.parent)


KINDS = [
    Kind("model.pt", write_detector, load_detector),
    Kind("model.safetensors", write_detector, load_detector),
    Kind("last.ckpt", write_checkpoint, AtomicCheckpointIO().load_checkpoint),
    *(
        Kind(f"sound.{end}", write_sound, lambda path: load_audio(path, RATE))
        for end in ("wav", "flac", "ogg", "aiff")
    ),
    Kind("train.h5", write_pack, lambda path: read_clips(read_packs([path], 2))),
    Kind(
        "train.tar",
        write_shard,
        lambda path: list(ClipStream([path], CLASSES, StreamOptions(RATE, 0.2))),
    ),
    *(
        Kind(name, write_table, read_corpus)
        for name in ("class_labels_indices.csv", "train_segments.csv", "eval_strong.tsv")
    ),
    Kind("weak.tsv", write_table, read_lists),
    Kind("events.csv", write_table, read_events),
    Kind(
        "config.json",
        lambda path: path.write_text('{"held_out": 0.1, "seed": 0}'),
        lambda path: RunFolder(path.parent).read_config(),
    ),
]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, with some bytes changed, with a piece moved, or noise."""
    way = rng.randrange(5)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way == 1:
        return rng.randbytes(rng.randrange(1, 2000))
    changed = bytearray(data)
    if way == 2:
        first, last = sorted(rng.choices(range(len(data)), k=2))
        return bytes(changed[:first] + changed[last:] + changed[first:last])
    # Headers stand at a file's beginning or end.
    reach = len(data) if way == 3 else min(len(data), 300)
    for _ in range(rng.randrange(1, 20)):
        place = rng.randrange(reach) * rng.choice([1, -1])
        changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(changed)


def refused(kind: Kind, path: Path) -> list[str]:
    """What is said about a file, or about its clips."""
    try:
        result = kind.read(path)
    except UserError as error:
        return [str(error)]
    clips = result if isinstance(result, list) else []
    return [clip.reason for clip in clips if isinstance(clip, Unreadable)]


@EVERY_KIND
def test_a_good_file_is_read(kind, tmp_path):
    kind.write(tmp_path / kind.name)
    assert not refused(kind, tmp_path / kind.name)


@EVERY_KIND
def test_noise_and_damage_are_named_or_do_no_harm(kind, tmp_path):
    """Whatever comes, it is read, or refused in a message that says where."""
    path = tmp_path / kind.name
    kind.write(path)
    data = path.read_bytes()
    messages = 0
    for number in range(EXAMPLES):
        path.write_bytes(damaged(data, random.Random(number)))
        for message in refused(kind, path):
            messages += 1
            assert str(tmp_path) in message
    assert messages


@EVERY_KIND
def test_an_empty_file_and_a_folder_are_refused(kind, tmp_path):
    path = tmp_path / kind.name
    path.write_bytes(b"")
    assert refused(kind, path)
    path.unlink()
    path.mkdir()
    try:
        assert refused(kind, path)
    except OSError as error:  # which the programs put into one line
        assert error.filename == str(path)


@EVERY_KIND
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_in_place_of_a_file_is_not_loaded(kind, protocol, tmp_path):
    path, trace = tmp_path / kind.name, tmp_path / "trace"
    path.write_bytes(pickle.dumps(Payload(trace), protocol))
    assert refused(kind, path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", KINDS[:3:2], ids=lambda kind: kind.name)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_checkpoint_with_code_in_it_is_refused(kind, zipped, tmp_path):
    path, trace = tmp_path / kind.name, tmp_path / "trace"
    content = {"format": "milkernels detector 1", "state_dict": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert refused(kind, path)
    assert not trace.exists()


def test_a_checkpoint_that_is_compressed_is_not_unpacked(tmp_path):
    plain, path = tmp_path / "plain.pt", tmp_path / "model.pt"
    save_atomically({"state": torch.zeros(1 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in source.namelist():
            file.writestr(name, source.read(name))
    assert path.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(ValueError, match="compressed"):
        load_saved(path)


def test_a_shards_members_are_decoded_as_sound_and_labels_alone(tmp_path):
    """WebDataset's own decoders would load .pyd and .pickle files."""
    path, trace = tmp_path / "train.tar", tmp_path / "trace"
    code = pickle.dumps(Payload(trace))
    with tarfile.open(path, "w") as shard:
        for end in ("pyd", "pickle", "pth", "npy", "json", "flac"):
            add_member(shard, f"clip.{end}", code)
    (clip,) = ClipStream([path], CLASSES, StreamOptions(RATE, 0.2))
    assert isinstance(clip, Unreadable)
    assert not trace.exists()


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_shard_that_is_compressed_is_not_unpacked(mode, tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, mode) as shard:
        add_member(shard, "clip.flac", bytes(1 << 22))
    assert path.stat().st_size < 1 << 14
    (clip,) = ClipStream([path], CLASSES, StreamOptions(RATE, 0.2))
    assert "cannot be read to its end" in clip.reason


def test_a_shards_sparse_member_is_not_filled_in(tmp_path):
    path = tmp_path / "train.tar"
    member = tarfile.TarInfo("clip.flac")
    member.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as shard:
        shard.addfile(member)
    (clip,) = ClipStream([path], CLASSES, StreamOptions(RATE, 0.2))
    assert "longer than its shard" in clip.reason


def wav(samples: int, channels: int, rate: int) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.zeros((samples, channels), np.int16), RATE, "PCM_16", format="wav")
    content = bytearray(data.getvalue())
    content[24:28] = rate.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_sample_rate_that_would_fill_the_memory_is_refused(rate):
    with pytest.raises(UserError, match=rf"sample rate of {rate} Hz"):
        decode_audio(wav(100_000, 1, rate), 16000)


def test_a_flac_that_promises_more_samples_than_it_has_is_refused_or_read():
    data = io.BytesIO()
    soundfile.write(data, sound(), RATE, format="flac")
    content = bytearray(data.getvalue())
    # The 36 bits of STREAMINFO's number of samples.
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    try:
        waveform = decode_audio(bytes(content), RATE)
    except UserError as error:
        assert "cannot be read" in str(error)
    else:
        assert len(waveform) == len(sound())


HOSTILE_PACKS = {
    "a group": lambda file: file.create_group("waveform"),
    "numbers for names": lambda file: file.update(audio_name=np.zeros(3)),
    "text of any length": lambda file: file.create_dataset(
        "audio_name", data=["a", "b", "c"], dtype=h5py.string_dtype()
    ),
    "fewer names": lambda file: file.update(audio_name=np.array([b"a"])),
    "fractions for lengths": lambda file: file.update(length=np.array([0.5, 1.5, 2.5])),
    "records for labels": lambda file: file.update(target=np.zeros((3, 2), "i4,i4")),
    "no rate": lambda file: file.attrs.update(sample_rate=0),
    "a rate of text": lambda file: file.attrs.update(sample_rate="fast"),
    "rates": lambda file: file.attrs.update(sample_rate=np.array([8000, 16000])),
}


@pytest.mark.parametrize("change", HOSTILE_PACKS.values(), ids=HOSTILE_PACKS.keys())
def test_a_pack_of_wrong_parts_is_refused(change, tmp_path):
    path = tmp_path / "train.h5"
    write_pack(path)
    with h5py.File(path, "r+") as file:
        for name in ("waveform", "target", "audio_name", "length"):
            before = dict(file.attrs), file[name][:]
            del file[name]
            with suppress(ValueError, OSError, RuntimeError):
                change(file)
            if name not in file:
                file[name] = before[1]
    with pytest.raises(UserError, match=r"train\.h5: expected"):
        read_packs([path], 2)


def test_a_packs_row_of_any_length_is_read_up_to_the_clips(tmp_path):
    """Of chunks that are not there HDF5 makes zeros, as many as the file says."""
    path = tmp_path / "train.h5"
    write_pack(path)
    with h5py.File(path, "r+") as file:
        del file["waveform"]
        file.create_dataset("waveform", (3, 1 << 44), np.int16, chunks=(1, 1 << 12), fillvalue=7)
    assert [len(clip.waveform) for clip in read_clips(read_packs([path], 2))] == [400, 100, 300]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("train_segments.csv", "abc, 0, 1e308, /m/a\n", "line 1: expected 0 <= start < end"),
        ("train_segments.csv", "abc, nan, inf, /m/a\n", "line 1: expected 0 <= start < end"),
        ("train_segments.csv", f"{'a' * 200_000}, 0, 1, /m/a\n", "field larger than field limit"),
        ("events.csv", "filename,mid,display_name\na\0b.wav,/m/a,A\n", "no such file"),
        ("config.json", "[" * 100_000, "cannot be read"),
        ("config.json", "[]", "expected a JSON object"),
    ],
)
def test_hostile_values_of_tables_are_named(name, text, named, tmp_path):
    kind = next(kind for kind in KINDS if kind.name == name)
    (tmp_path / name).write_text(text)
    (message,) = refused(kind, tmp_path / name)
    assert named in message


#: What loads pickles, or may; of torch.load only with weights_only=True.
UNPICKLING = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "joblib.load"),
    *("dill.load", "marshal.loads", "shelve.open", "np.load", "numpy.load", "pd.read_pickle"),
    *("pd.read_hdf", "yaml.load", "webdataset.decode", "webdataset.WebDataset", "eval", "exec"),
}
SOURCES = sorted(
    path
    for folder in ("models", "milkernels", "benchmarks", "stress")
    for path in (Path(__file__).parents[1] / folder).rglob("*.py")
)


def test_nothing_that_unpickles_is_called():
    calls = [
        (path.name, call)
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
    ]
    called = [(name, ast.unparse(call.func), call) for name, call in calls]
    assert not [(name, function) for name, function, _ in called if function in UNPICKLING]
    loads = [call for _, function, call in called if function == "torch.load"]
    assert loads
    for call in loads:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("weights_only") == "True"
