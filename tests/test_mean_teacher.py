"""The mean teacher: what each part of a batch teaches, and how the teacher follows."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from networks import SMALL
from torch.utils.data import DataLoader

from models.augmentation import AugmentationOptions
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.data.corpus import open_corpus
from models.data.mixing import MixOptions, mix_corpus
from models.detector import Detector, DetectorSpec, load_detector
from models.errors import UserError
from models.feature_cache import FeatureBatch
from models.features import PRESETS
from models.frame_targets import frame_targets
from models.losses import clip_loss, frame_loss, squared_error
from models.mean_teacher import MeanTeacherOptions, MeanTeacherTraining, Supervision
from models.system import TrainingOptions
from models.train import train
from models.train_options import TrainOptions
from models.training_data import cache_features

CLASSES = ClassList(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
SUPERVISION = Supervision({"strong": [StrongLabel("strong", 0.2, 0.6, 1)]}, {"weak"})
FRAMES = 40


def training(options=None, mean_teacher=None, model="power_crnn"):
    detector = Detector(DetectorSpec(model, None, None, SMALL[model]), CLASSES)
    return MeanTeacherTraining(detector, options or TrainingOptions(), SUPERVISION, mean_teacher)


def batch(*names):
    target = torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(names), 1)
    lengths = torch.tensor([FRAMES, FRAMES - 10, FRAMES // 2])[: len(names)]
    features = torch.randn(len(names), FRAMES, 64)
    return FeatureBatch(features, lengths, target, names, (1.0,) * len(names))


def disturbed(system):
    """A teacher that is not its student, heard without noise and batch statistics."""
    with torch.no_grad():
        for parameter in system.teacher.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    return system.eval()


@pytest.mark.parametrize("step", [0, 500, 2000])
def test_the_loss_is_that_of_each_part_and_a_growing_share_of_the_differences(step, monkeypatch):
    scheme = MeanTeacherOptions(consistency=2, ramp_up_steps=1000, noise_decibels=300)
    system = disturbed(training(mean_teacher=scheme))
    monkeypatch.setattr(MeanTeacherTraining, "global_step", step)
    clips = batch("weak", "strong", "neither")
    loss, student = system.batch_loss(clips)
    teacher = system(clips)
    target = frame_targets(
        [SUPERVISION.strong["strong"]], 10, system.detector.frame_seconds, len(CLASSES)
    )
    mask = student.mask
    expected = clip_loss(student.clip[:1], clips.target[:1])
    expected = expected + frame_loss(student.frame[1:2], target, mask[1:2])
    weight = {0: 2 * math.exp(-5), 500: 2 * math.exp(-1.25), 2000: 2}[step]
    difference = squared_error(student.frame, teacher.frame, mask)
    difference = difference + squared_error(student.clip, teacher.clip)
    assert difference > 0
    torch.testing.assert_close(loss, expected + weight * difference)


@pytest.mark.parametrize("names", [("weak",), ("strong",), ("neither",), ("neither", "neither")])
def test_a_part_may_be_missing(names):
    loss, _ = training(mean_teacher=MeanTeacherOptions(ramp_up_steps=1)).batch_loss(batch(*names))
    loss.backward()
    assert bool(loss.isfinite())


def test_consistency_has_its_full_weight_after_half_of_the_training(monkeypatch):
    system = training()
    halves = SimpleNamespace(estimated_stepping_batches=1000)
    monkeypatch.setattr(MeanTeacherTraining, "trainer", halves)
    assert system.ramp_up_steps == 500


def test_the_student_learns_and_the_teacher_is_its_average():
    scheme = MeanTeacherOptions(decay=0.6)
    system = training(mean_teacher=scheme)
    history = [copy.deepcopy(list(system.detector.network.parameters()))]
    original = system.on_train_batch_end

    def on_train_batch_end(*rest):
        original(*rest)
        history.append([p.detach().clone() for p in system.detector.network.parameters()])

    system.on_train_batch_end = on_train_batch_end
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    system.on_train_epoch_end = lambda: None
    system.transfer_batch_to_device = lambda clips, *rest: clips
    batches = [batch("weak", "strong", "neither") for _ in range(3)]
    trainer.fit(system, DataLoader(batches, batch_size=None))
    first, second, third = history[1:]
    for index, teacher in enumerate(system.teacher.parameters()):
        # 1 - 1/n until the decay is less: 0, 1/2, 0.6.
        expected = 0.6 * (first[index] + second[index]) / 2 + 0.4 * third[index]
        torch.testing.assert_close(teacher, expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(first[0], third[0])
    assert not any(parameter.requires_grad for parameter in system.teacher.parameters())


def test_the_teacher_is_what_is_kept():
    system = disturbed(training())
    clips = batch("weak")
    expected = system(clips).clip
    detector = system.finish()
    features = detector.front_end.normalise(clips.features, clips.lengths)
    assert torch.equal(detector.network(features, clips.lengths).clip, expected)


def test_noise_is_as_far_below_the_features_as_asked():
    system = training(mean_teacher=MeanTeacherOptions(noise_decibels=20))
    examples = system._with_frame_targets(batch("weak", "strong", "neither"))
    noise = system._noisy(examples) - examples.features
    for clip in range(3):
        power = examples.features[clip, : examples.lengths[clip]].square().mean()
        assert noise[clip].square().mean().item() == pytest.approx(power.item() / 100, rel=0.2)


def test_a_shift_in_time_takes_the_frame_targets_along():
    options = TrainingOptions(augmentation=AugmentationOptions(time_shift=16))
    system = training(options)
    before = system._with_frame_targets(batch("strong"))
    after = system.augment(before)
    assert after.frame_target.sum() == before.frame_target.sum() == 4
    assert not torch.equal(after.frame_target, before.frame_target)


def test_mixup_and_taggers_are_refused():
    with pytest.raises(ValueError, match="mixup: expected none"):
        training(TrainingOptions(augmentation=AugmentationOptions(mixup=1.0)))
    with pytest.raises(ValueError, match="frame probabilities"):
        training(model="gmap_cnn")


@pytest.mark.parametrize(
    ("onset", "offset", "frames"),
    [
        (0.0, 0.3, [0, 1, 2]),
        (0.06, 0.24, [1]),
        (0.04, 0.26, [0, 1, 2]),
        (0.11, 0.13, [1]),
        (0.36, 9.0, [4]),
        (-1.0, 0.1, [0]),
    ],
)
def test_frames_are_true_where_an_event_covers_their_middle(onset, offset, frames):
    target = frame_targets([[StrongLabel("clip", onset, offset, 2)], []], 5, 0.1, 3)
    assert target.shape == (2, 5, 3)
    assert target[0, :, 2].nonzero().squeeze(1).tolist() == frames
    assert target.sum() == len(frames)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Mixed clips: of every three one is strongly labelled, one weakly and one not at all."""
    directory = tmp_path_factory.mktemp("corpus") / "mixed"
    mix_corpus(MixOptions(directory, train=30, evaluation=4, seconds=1.0), progress=False)
    mixed = open_corpus(directory)
    labelled = mixed.train.select([index for index in range(30) if index % 3])
    strong = {
        clip.clip_id: [StrongLabel(clip.clip_id, 0.0, 0.5, label) for label in clip.labels]
        for clip in labelled[::2]
    }
    unlabelled = mixed.train.select(range(0, 30, 3))
    return replace(mixed, train=labelled, train_strong=strong, unlabelled=unlabelled)


def test_a_run_with_a_mean_teacher_repeats_and_keeps_the_teacher(corpus, tmp_path):
    options = TrainOptions(
        corpus.directory,
        tmp_path / "first",
        model="power_crnn",
        model_options=SMALL["power_crnn"],
        epochs=2,
        batch_size=12,
        held_out=0.3,
        time_shift=16.0,
        mean_teacher=(3, 3, 6),
        accelerator="cpu",
        devices="1",
        cache_features=True,
    )
    cache = cache_features(corpus, PRESETS["dcase2017"])
    metrics = train(options, corpus, cache)
    assert metrics["clips"] == 4
    assert train(replace(options, out=tmp_path / "second"), corpus, cache) == metrics
    state = torch.load(tmp_path / "first" / "last.ckpt", weights_only=True)["state_dict"]
    kept = load_detector(tmp_path / "first" / "model.pt").network.state_dict()
    for name, value in kept.items():
        assert torch.equal(value, state[f"teacher.{name}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.5}, "--mean-teacher: mixup: expected none"),
        ({"ema": 0.9}, "--ema: expected none with --mean-teacher"),
        ({"model": "gmap_cnn"}, "--mean-teacher: detector: expected a network with frame"),
    ],
)
def test_what_does_not_go_with_a_mean_teacher_is_refused(changes, message, corpus, tmp_path):
    options = TrainOptions(
        corpus.directory, tmp_path / "run", held_out=0.3, mean_teacher=(8, 8, 16)
    )
    with pytest.raises(UserError, match=message):
        train(replace(options, **changes), corpus)
