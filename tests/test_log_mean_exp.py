"""Log-mean-exp over all of its sharpness, 0 and below included."""

import pytest
import torch
from budget import truth_of
from cases import Case, assert_close

from milkernels import functional, reference

SHARPNESSES = [1e-8, 1e-5, 1e-3, 0.03, 0.3, 1.0, 10.0, 300.0]


def pool_and_gradients(x, sharpness, **keywords):
    tensors = [tensor.detach().requires_grad_() for tensor in (x, sharpness)]
    y = functional.log_mean_exp_pool(*tensors, **keywords)
    return y.detach(), torch.autograd.grad(y.sum(), tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("number", [5, 2.5, -0.1])
def test_a_number_is_the_same_for_every_class(any_backend, device, number, dtype):
    x = torch.rand(2, 3, 17, dtype=dtype, device=device)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    sharpness = torch.full((3,), number, dtype=compute, device=device)
    expected = functional.log_mean_exp_pool(x, sharpness)
    assert torch.equal(functional.log_mean_exp_pool(x, number), expected)


@pytest.mark.parametrize("dim", [-1, 1])
def test_at_0_it_is_the_mean_and_half_the_variance_its_slope(any_backend, device, dim):
    x = torch.rand((2, 40, 3) if dim == 1 else (2, 3, 40), dtype=torch.float64, device=device)
    zero = torch.zeros(3, dtype=torch.float64, device=device)
    y, (x_gradient, sharpness_gradient) = pool_and_gradients(x, zero, dim=dim)
    assert torch.allclose(y, x.mean(dim))
    assert torch.allclose(x_gradient, torch.full_like(x, 1 / 40))
    assert torch.allclose(sharpness_gradient, x.var(dim, correction=0).sum(0) / 2)


@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", SHARPNESSES)
def test_no_sharpness_costs_digits(kernel_backend, device, size, sign, offset):
    """Values to a few roundings of the frames, slopes to a few of the frames' range squared."""
    x = offset + torch.rand(2, 3, 100, device=device)
    sharpness = torch.full((3,), sign * size, device=device)
    case = Case("log_mean_exp", [x, sharpness])
    y, _, slope = case.run(functional)
    true_y, _, true_slope = truth_of(case)
    epsilon = torch.finfo(torch.float32).eps
    assert (y - true_y).abs().max() <= epsilon * (1 + offset)
    assert (slope - true_slope).abs().max() <= (4 + 20 * offset) * epsilon


@pytest.mark.parametrize("size", SHARPNESSES)
def test_float64_agrees_with_the_oracle_at_every_sharpness(kernel_backend, device, size):
    x = torch.randn(2, 3, 60, dtype=torch.float64, device=device)
    sharpness = size * torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64, device=device)
    case = Case("log_mean_exp", [x, sharpness])
    ours, truth = case.run(functional), case.run(reference)
    assert_close(ours[:2], truth[:2], relative=1e-12)
    # The oracle's quotient itself loses digits of the slope as the sharpness falls.
    assert_close(ours[2:], truth[2:], relative=1e-8)


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_negative_sharpness_mirrors_a_positive_one(kernel_backend, device, dim):
    x = torch.randn((2, 30, 3) if dim == 1 else (2, 3, 30), device=device)
    sharpness = torch.tensor([0.5, 3.0, 40.0], device=device)
    y, gradients = pool_and_gradients(x, sharpness, dim=dim)
    mirrored, mirrored_gradients = pool_and_gradients(-x, -sharpness, dim=dim)
    assert torch.equal(mirrored, -y)
    assert all(map(torch.equal, mirrored_gradients, gradients))


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("dim", [-1, 1])
def test_sorted_frames_are_as_exact(kernel_backend, device, dim, order):
    """Ascending, the largest so far changes at every step."""
    x = 30 * torch.rand(2, 3, 400).sort(-1, descending=order == "descending").values
    x = x.transpose(1, 2).contiguous() if dim == 1 else x
    sharpness = torch.tensor([0.1, 1.0, -4.0])
    case = Case("log_mean_exp", [x.to(device), sharpness.to(device)], {"dim": dim})
    assert_close(case.run(functional), truth_of(case), relative=1e-6)


def test_one_frame_far_above_the_others_is_not_lost(kernel_backend, device):
    x = torch.zeros(1, 2, 1000, device=device)
    x[..., 7] = 50.0
    case = Case("log_mean_exp", [x, torch.tensor([1.0, 0.02], device=device)])
    assert_close(case.run(functional), truth_of(case), relative=1e-6)


@pytest.mark.parametrize("needed", [0, 1])
def test_only_what_needs_a_gradient_gets_one(any_backend, device, needed):
    tensors = [torch.rand(2, 3, 8, device=device), torch.ones(3, device=device)]
    _, gradients = pool_and_gradients(*tensors)
    tensors[needed].requires_grad_()
    y = functional.log_mean_exp_pool(*tensors)
    (alone,) = torch.autograd.grad(y.sum(), tensors[needed])
    assert torch.allclose(alone, gradients[needed])


@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0])
def test_second_derivatives_exist_at_every_sharpness(any_backend, device, size):
    x = torch.rand(1, 2, 4, dtype=torch.float64, device=device, requires_grad=True)
    sharpness = torch.full((2,), size, dtype=torch.float64, device=device, requires_grad=True)
    pool = functional.log_mean_exp_pool
    fast = any_backend == "triton"
    assert torch.autograd.gradcheck(pool, (x, sharpness), fast_mode=fast)
    assert torch.autograd.gradgradcheck(pool, (x, sharpness), fast_mode=fast)
