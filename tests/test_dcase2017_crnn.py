"""The DCASE 2017 network with every pooling: its masks and its behaviour in a batch.

test_networks.py holds it, with the other systems, to what all promise.
"""

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


def test_the_power_penalty_reaches_the_output():
    output = build_model("dcase2017_crnn", 3, "power", **NARROW)(torch.randn(1, 8, 64))
    assert output.penalty.item() == pytest.approx(3e-4)


def test_unknown_names_are_answered_with_the_choices():
    assert "dcase2017_crnn" in list_models()
    with pytest.raises(ValueError, match="dcase2017_crnn"):
        build_model("dcase2018_crnn", 3)
    with pytest.raises(ValueError, match="linear_softmax"):
        build_model("dcase2017_crnn", 3, "median")
