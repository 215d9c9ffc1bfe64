"""Losses: against PyTorch's own, over real frames alone, and finite."""

import math

import pytest
import torch
from torch.nn import functional

from models.losses import clip_loss, frame_loss, squared_error

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_clip_loss_is_binary_cross_entropy():
    clip, target = torch.rand(4, 3), torch.rand(4, 3)
    torch.testing.assert_close(
        clip_loss(clip, target), functional.binary_cross_entropy(clip, target)
    )


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(frame_loss, functional.binary_cross_entropy), (squared_error, functional.mse_loss)],
)
def test_frames_past_a_clips_end_count_nothing(loss, expected):
    value, target = torch.rand(2, 3, 5), torch.rand(2, 3, 5)
    torch.testing.assert_close(loss(value, target), expected(value, target))
    value[~MASK] = math.nan
    value.requires_grad_()
    masked = loss(value, target, MASK)
    torch.testing.assert_close(masked, expected(value[MASK], target[MASK]))
    masked.backward()
    assert bool((value.grad[~MASK] == 0).all())


@pytest.mark.parametrize("loss", [frame_loss, squared_error])
def test_without_a_real_frame_it_is_zero(loss):
    value = torch.rand(2, 3, 5, requires_grad=True)
    masked = loss(value, torch.rand(2, 3, 5), torch.zeros(2, 3, dtype=torch.bool))
    assert masked == 0
    masked.backward()
    assert loss(value[:0], torch.rand(0, 3, 5)) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_certain_and_wrong_probabilities_of_any_type_have_a_finite_loss(dtype):
    probability = torch.tensor([[[0.0, 1.0]]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[[1.0, 0.0]]])
    loss = frame_loss(probability, target) + clip_loss(probability[0], target[0])
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert bool(probability.grad.isfinite().all())
