"""The DCASE 2017 network: its size, its masks and its behaviour in a batch."""

import math

import pytest
import torch

from milkernels.nn import list_poolings
from models import build_model, list_models
from models.losses import clip_loss

NARROW = {"channels": [4, 6, 8], "gru_width": 6}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_parameter_count_is_the_papers():
    model = build_model("dcase2017_crnn", 17, "linear_softmax")
    assert sum(parameter.numel() for parameter in model.parameters()) == 936_041


def test_attention_adds_a_second_linear_layer():
    model = build_model("dcase2017_crnn", 17, "attention")
    assert sum(parameter.numel() for parameter in model.parameters()) == 939_458


def test_ten_seconds_give_a_hundred_frames():
    output = build_model("dcase2017_crnn", 5, **NARROW)(torch.randn(2, 400, 64))
    assert output.clip.shape == (2, 5)
    assert output.frame.shape == (2, 100, 5)
    assert output.mask is None
    assert bool(((output.frame >= 0) & (output.frame <= 1)).all())


@pytest.mark.parametrize("pooling", list_poolings(probabilities=True))
def test_a_clip_gives_the_same_alone_and_padded_in_a_batch(pooling):
    model = build_model("dcase2017_crnn", 3, pooling, **NARROW)
    features = torch.randn(3, 43, 64)
    lengths = torch.tensor([43, 21, 2])
    batch = model(features, lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = model(features[index : index + 1, :length])
        torch.testing.assert_close(batch.clip[index], alone.clip[0])
        frames = alone.frame.shape[1]
        torch.testing.assert_close(batch.frame[index, :frames], alone.frame[0])
        assert int(batch.mask[index].sum()) == frames


def test_padding_may_hold_anything():
    model = build_model("dcase2017_crnn", 3, "max", **NARROW)
    features = torch.randn(1, 40, 64)
    lengths = torch.tensor([25])
    expected = model(features, lengths).clip
    features[:, 25:] = math.nan
    output = model(features, lengths)
    torch.testing.assert_close(output.clip, expected, rtol=0, atol=0)
    output.clip.sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_a_clip_without_frames_gives_zero():
    output = build_model("dcase2017_crnn", 3, **NARROW)(torch.randn(2, 8, 64), torch.tensor([8, 0]))
    assert output.clip[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("pooling", list_poolings(probabilities=True))
def test_clip_and_loss_stay_in_float32_under_mixed_precision(pooling):
    model = build_model("dcase2017_crnn", 3, pooling, **NARROW)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 40, 64), torch.tensor([40, 9]))
        loss = clip_loss(output.clip, torch.ones(2, 3)) + output.penalty
    loss.backward()
    assert output.clip.dtype == loss.dtype == torch.float32
    assert math.isfinite(loss.item())


def test_loss_is_finite_for_certain_and_wrong_clips():
    clip = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = clip_loss(clip, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(clip.grad.isfinite().all())


def test_the_power_penalty_reaches_the_output():
    output = build_model("dcase2017_crnn", 3, "power", **NARROW)(torch.randn(1, 8, 64))
    assert output.penalty.item() == pytest.approx(3e-4)


def test_unknown_names_are_answered_with_the_choices():
    assert "dcase2017_crnn" in list_models()
    with pytest.raises(ValueError, match="dcase2017_crnn"):
        build_model("dcase2018_crnn", 3)
    with pytest.raises(ValueError, match="linear_softmax"):
        build_model("dcase2017_crnn", 3, "median")


def test_a_pooling_that_gives_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"pooling: expected one of mean, .*, got 'max_mean'"):
        build_model("dcase2017_crnn", 3, "max_mean", **NARROW)
