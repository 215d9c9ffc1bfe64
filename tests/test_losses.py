"""Losses: against PyTorch's own, over real frames alone, and finite."""

import math

import pytest
import torch
from torch.nn import functional

from models.layers.frame_head import FRAME_POOLINGS, FrameHead
from models.layers.reference_pooling import use_reference_pooling
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


@pytest.mark.parametrize(("probability", "target"), [(0.0, 1.0), (1e-20, 1.0), (1.0, 0.0)])
def test_a_certain_and_wrong_clip_is_learnt(probability, target):
    clip = torch.tensor([[probability]], requires_grad=True)
    clip_loss(clip, torch.tensor([[target]])).backward()
    assert abs(clip.grad.item()) > 1e6


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("pooling", FRAME_POOLINGS)
def test_every_head_learns_from_its_first_batch(pooling, target):
    """Of a hundred frames near 0.5 noisy-or is 1 to the last bit."""
    head = FrameHead(8, 3, pooling)
    output = head(torch.randn(2, 100, 8), None)
    output.clip_loss(torch.full((2, 3), target)).backward()
    least = 1e-3 if (pooling, target) != ("noisy_or", 1.0) else 0
    assert head.classifier.weight.grad.norm() >= least


@pytest.mark.parametrize("pooling", FRAME_POOLINGS)
def test_the_loss_of_a_head_is_that_of_its_clips(pooling):
    torch.manual_seed(0)
    hidden, target = torch.randn(4, 10, 8), torch.rand(4, 3)
    known = torch.tensor([True, False, True, True])
    heads = FrameHead(8, 3, pooling), FrameHead(8, 3, pooling)
    heads[1].load_state_dict(heads[0].state_dict())
    use_reference_pooling(heads[1])
    for head in heads:
        with torch.no_grad():
            head.classifier.bias.fill_(-2)
        output = head(hidden, None)
        torch.testing.assert_close(output.clip_loss(target), clip_loss(output.clip, target))
        torch.testing.assert_close(
            output.clip_loss(target, known), clip_loss(output.clip[known], target[known])
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_certain_and_wrong_probabilities_of_any_type_have_a_finite_loss(dtype):
    probability = torch.tensor([[[0.0, 1.0]]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[[1.0, 0.0]]])
    loss = frame_loss(probability, target) + clip_loss(probability[0], target[0])
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert bool(probability.grad.isfinite().all())
