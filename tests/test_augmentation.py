"""Changes of training clips: what they keep, what they change, and that padding stays padding."""

import pytest
import torch

from models.augmentation import AugmentationOptions, Examples, Mixup, SpecAugment, TimeShift

FRAMES, BANDS, CLASSES, REDUCTION = 40, 16, 3, 4
LENGTHS = torch.tensor([40, 24, 0, 3])
CHANGES = [TimeShift(16.0, REDUCTION), Mixup(1.0), SpecAugment(2, 8, 2, 4)]


@pytest.fixture
def examples():
    real = torch.arange(FRAMES) < LENGTHS[:, None]
    real_output = torch.arange(FRAMES // REDUCTION) < -(-LENGTHS // REDUCTION)[:, None]
    frame_target = (torch.rand(len(LENGTHS), FRAMES // REDUCTION, CLASSES) > 0.5).float()
    return Examples(
        torch.rand(len(LENGTHS), FRAMES, BANDS).add(1) * real[..., None],
        LENGTHS,
        (torch.rand(len(LENGTHS), CLASSES) > 0.5).float(),
        frame_target * real_output[..., None],
    )


def repeated(examples, times):
    """The same clips many times, to see every draw."""
    return Examples(
        examples.features.repeat(times, 1, 1),
        examples.lengths.repeat(times),
        examples.target.repeat(times, 1),
        examples.frame_target.repeat(times, 1, 1),
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_nothing_changes_in_evaluation(change, examples):
    assert change.eval()(examples) is examples
    change.train()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_padding_stays_zero_and_shapes_stay(change, examples):
    changed = change(repeated(examples, 10))
    padded = torch.arange(FRAMES) >= changed.lengths[:, None]
    assert bool((changed.features[padded] == 0).all())
    output_padded = torch.arange(FRAMES // REDUCTION) >= -(-changed.lengths // REDUCTION)[:, None]
    assert bool((changed.frame_target[output_padded] == 0).all())
    assert changed.features.shape == (10 * len(LENGTHS), FRAMES, BANDS)
    assert not torch.equal(changed.features, examples.features.repeat(10, 1, 1))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_an_empty_batch_stays_empty(change):
    none = torch.zeros(0, dtype=torch.int64)
    changed = change(Examples(torch.zeros(0, 8, BANDS), none, torch.zeros(0, CLASSES)))
    assert changed.features.shape == (0, 8, BANDS)
    assert changed.frame_target is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_the_seed_decides(change, examples):
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(change(examples))
    assert torch.equal(results[0].features, results[1].features)
    assert not torch.equal(change(examples).features, results[0].features)


def test_a_shift_turns_features_and_frame_targets_together(examples):
    marked = torch.arange(FRAMES).float()[None, :, None].expand(len(LENGTHS), -1, BANDS)
    labels = torch.arange(FRAMES // REDUCTION).float()[None, :, None].expand(4, -1, CLASSES)
    turned = TimeShift(16.0, REDUCTION)(Examples(marked, LENGTHS, examples.target, labels))
    for clip in (0, 1):
        frames = turned.features[clip, : LENGTHS[clip], 0]
        first = int(frames[0])
        assert first % REDUCTION == 0
        assert frames.tolist() == [(first + i) % int(LENGTHS[clip]) for i in range(LENGTHS[clip])]
        assert turned.frame_target[clip, 0, 0].item() * REDUCTION == first
    assert torch.equal(turned.target, examples.target)


def test_shifts_have_the_standard_deviation_that_was_asked_for():
    frames = 400
    lengths = torch.full((500,), frames)
    marked = torch.arange(frames).float()[None, :, None].expand(500, -1, 1)
    turned = TimeShift(16.0)(Examples(marked, lengths, torch.zeros(500, 1)))
    first = turned.features[:, 0, 0]
    shift = torch.where(first > frames / 2, frames - first, -first)
    assert shift.mean().item() == pytest.approx(0, abs=3)
    assert shift.std().item() == pytest.approx(16, rel=0.15)


def test_mixup_mixes_features_and_targets_by_one_share():
    lengths = torch.full((6,), FRAMES)
    own = torch.eye(6)
    features = own[:, None, :].expand(-1, FRAMES, -1)
    mixed = Mixup(1.0)(Examples(features, lengths, own, features[:, ::REDUCTION]))
    torch.testing.assert_close(mixed.target.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed.features, mixed.target[:, None].expand(-1, FRAMES, -1))
    torch.testing.assert_close(mixed.frame_target, mixed.features[:, ::REDUCTION])
    assert bool(((mixed.target > 0) & (mixed.target < 1)).any())


def test_a_frame_that_one_clip_of_a_pair_lacks_is_the_others():
    lengths = torch.tensor([FRAMES, 24])
    features = torch.ones(2, FRAMES, 1) * torch.tensor([1.0, 3.0])[:, None, None]
    features[1, 24:] = 0
    for _ in range(20):
        mixed = Mixup(1.0)(Examples(features, lengths, torch.eye(2)))
        if mixed.lengths.tolist() == [FRAMES, FRAMES]:
            break
    assert mixed.lengths.tolist() == [FRAMES, FRAMES]
    torch.testing.assert_close(mixed.features[:, 24:], torch.ones(2, FRAMES - 24, 1))
    share = mixed.target[:, 0]
    torch.testing.assert_close(mixed.features[:, 0, 0], share + 3 * (1 - share))


def test_stripes_are_narrower_than_asked_and_within_the_clip(examples):
    blanked = SpecAugment(1, 8, 1, 4)(repeated(examples, 200))
    real = torch.arange(FRAMES) < blanked.lengths[:, None]
    frames = (blanked.features == 0).all(2) & real
    bands = (blanked.features == 0).all(1)
    assert int(frames.sum(1).max()) == 7
    assert int(bands[blanked.lengths == FRAMES].sum(1).max()) == 3
    assert int(frames.sum(1).min()) == 0
    first, last = frames[blanked.lengths == FRAMES][:, [0, -1]].any(0).tolist()
    assert first
    assert last


def test_options_build_what_they_name_and_nothing_else():
    assert len(AugmentationOptions().build(4)) == 0
    changes = AugmentationOptions(time_shift=16, mixup=0.5, spec_augment=True).build(4)
    assert [type(change) for change in changes] == [TimeShift, Mixup, SpecAugment]
    assert changes[0].frame_reduction == 4
    assert changes[1].alpha == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimeShift(-1), "deviation: expected at least 0 frames, got -1"),
        (lambda: Mixup(0), "alpha: expected a number above 0, got 0"),
        (lambda: SpecAugment(stripe_frames=0), "stripe_frames: expected at least 1, got 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
