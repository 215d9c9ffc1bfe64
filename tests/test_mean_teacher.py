"""The mean teacher: what each part of a batch teaches, and how the teacher follows."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer
from networks import SMALL
from torch.utils.data import DataLoader

from models.augmentation import AugmentationOptions
from models.data.audioset import StrongLabel
from models.data.classes import ClassList
from models.detector import Detector, DetectorSpec
from models.feature_cache import FeatureBatch
from models.frame_targets import frame_targets
from models.losses import clip_loss, frame_loss, squared_error
from models.mean_teacher import MeanTeacherOptions, MeanTeacherTraining, Supervision
from models.system import TrainingOptions

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
    weight = {0: 2 * 2.718281828**-5, 500: 2 * 2.718281828**-1.25, 2000: 2}[step]
    difference = squared_error(student.frame, teacher.frame, mask)
    difference = difference + squared_error(student.clip, teacher.clip)
    assert difference > 0
    torch.testing.assert_close(loss, expected + weight * difference)


@pytest.mark.parametrize("names", [("weak",), ("strong",), ("neither",), ("neither", "neither")])
def test_a_part_may_be_missing(names):
    loss, _ = training().batch_loss(batch(*names))
    loss.backward()
    assert bool(loss.isfinite())


def test_what_is_not_known_of_a_clip_does_not_teach():
    system = training().eval()
    losses = []
    for value in (0.0, 1.0):
        torch.manual_seed(0)
        clips = batch("neither", "strong")
        clips.target.fill_(value)
        losses.append(system.batch_loss(clips)[0])
    assert torch.equal(*losses)


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
