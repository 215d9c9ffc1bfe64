"""The maximum plus the mean: what its two halves promise together."""

import pytest
import torch

from milkernels import functional


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [-1, 1])
def test_equal_frames_give_exactly_twice_their_value(any_backend, device, dim, dtype):
    """Their sum over their number is rounded away from them in most bags."""
    values = torch.rand(40, dtype=dtype, device=device)
    x = values[:, None].expand(40, 71).contiguous()[None]
    x = x.transpose(1, 2).contiguous() if dim == 1 else x
    assert torch.equal(functional.max_mean_pool(x, dim=dim)[0], 2 * values)


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_mean_counts_the_real_frames_alone(any_backend, device, dim):
    x = torch.tensor([3.0, -1.0, 4.0, 8.0, 4.0, 5.0], device=device)
    mask = torch.tensor([[True, True, True, False, True, False]], device=device)
    x = x.reshape((1, 6, 1) if dim == 1 else (1, 1, 6)).requires_grad_()
    y = functional.max_mean_pool(x, dim=dim, mask=mask)
    assert y.item() == 4 + 10 / 4
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.flatten().tolist() == [0.25, 0.25, 1.25, 0, 0.25, 0]


@pytest.mark.parametrize("frames", [1, 15, 2049])
def test_the_first_of_equal_maxima_takes_its_share_beside_the_means(any_backend, device, frames):
    x = torch.full((2, 3, frames), 0.5, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.max_mean_pool(x).sum(), x)
    expected = torch.full_like(x, 1 / frames)
    expected[..., 0] += 1
    assert torch.equal(gradient, expected)
