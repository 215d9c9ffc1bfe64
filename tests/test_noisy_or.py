"""Noisy-or where its product meets zeros, ones, very many and very small factors."""

import pytest
import torch
import triton.language as tl
from budget import assert_within_budget, naive_form, truth_of
from cases import Case, assert_close
from checked_accesses import checked_backend

from milkernels import functional, reference
from milkernels.kernels import noisy_or_frames


def gradient_of(x: torch.Tensor, **keywords) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(functional.noisy_or_pool(x, **keywords).sum(), x)[0]


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_certain_frame_alone_takes_the_gradient(any_backend, device, dim):
    x = torch.tensor([0.5, 1.0, 0.25, 0.5], device=device)
    x = x.reshape((1, 4, 1) if dim == 1 else (1, 1, 4))
    assert functional.noisy_or_pool(x, dim=dim).item() == 1
    expected = torch.tensor([0, 0.5 * 0.75 * 0.5, 0, 0], device=device)
    assert torch.equal(gradient_of(x, dim=dim).flatten(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_of_two_certain_frames_none_takes_a_gradient(any_backend, device, dtype):
    x = torch.tensor([[[0.5, 1.0, 0.25, 1.0]]], dtype=dtype, device=device)
    assert functional.noisy_or_pool(x).item() == 1
    assert (gradient_of(x) == 0).all()


def test_a_masked_frame_at_1_counts_for_nothing(any_backend, device):
    x = torch.tensor([[[0.5, 1.0, 0.25]]], device=device)
    mask = torch.tensor([[True, False, True]], device=device)
    assert functional.noisy_or_pool(x, mask=mask).item() == 0.625
    expected = torch.tensor([0.75, 0.0, 0.5], device=device)
    assert torch.equal(gradient_of(x, mask=mask).flatten(), expected)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("frames", [37, 130])
def test_gradients_of_a_vanishing_product_stay_within_the_budget(
    kernel_backend, device, frames, dim, from_logits
):
    """Frames as often likely as not: the product is 1e-17 and less."""
    shape = (4, frames, 8) if dim == 1 else (4, 8, frames)
    x = 3 * torch.randn(shape) if from_logits else torch.rand(shape)
    case = Case("noisy_or", [x.to(device)], {"dim": dim, "from_logits": from_logits})
    assert_within_budget(case, naive_form("noisy_or", dim, from_logits))


@pytest.mark.parametrize("scale", [1e-3, 1e-8, 1e-20])
def test_small_frames_are_not_lost_in_1_minus_x(kernel_backend, device, scale):
    """One by one: each bag value to its own size, where eager's is rounded at 1."""
    x = scale * torch.rand(2, 3, 200, device=device)
    x = x * torch.logspace(-3, 0, 3, device=device)[:, None]
    ours = functional.noisy_or_pool(x).double()
    truth = -torch.expm1(torch.log1p(-x.double()).sum(-1))
    assert torch.allclose(ours, truth, rtol=3e-7, atol=0)


def test_a_product_that_underflows_still_divides(kernel_backend, device):
    """Π (1 - x_i) = 2^-140 is no normal float32, and without one of the likely frames 2^-116."""
    x = torch.tensor([1 - 2.0**-24] * 5 + [0.5] * 20, device=device).expand(1, 3, 25)
    case = Case("noisy_or", [x])
    assert_close(case.run(functional), truth_of(case), relative=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_outside_0_and_1_follow_the_formula(kernel_backend, device, dtype):
    x = 2 * torch.randn(2, 4, 30, dtype=dtype, device=device)
    case = Case("noisy_or", [x])
    case.tensors[0][0, 0, 3] = 1
    assert_close(case.run(functional), truth_of(case), relative=40 * torch.finfo(dtype).eps)


def test_very_likely_logits_give_1_and_no_gradient(any_backend, device):
    z = torch.tensor([30.0, 200.0, 1e4, 1e30], device=device).expand(2, 3, 4)
    assert (functional.noisy_or_pool(z, from_logits=True) == 1).all()
    assert (gradient_of(z, from_logits=True) == 0).all()


def test_one_likely_logit_keeps_the_slope_of_its_complement(kernel_backend, device):
    """1 - σ(80) is 2e-35: no 1 - x has it."""
    z = torch.tensor([[[80.0, -3.0]]], device=device)
    case = Case("noisy_or", [z], {"from_logits": True})
    assert_close(case.run(functional), truth_of(case), relative=1e-5)


@pytest.mark.parametrize("certain", [0, 1, 2, 3])
def test_second_derivatives_exist_where_frames_are_certain(any_backend, device, certain):
    x = torch.rand(1, 2, 4, dtype=torch.float64, device=device)
    x[..., :certain] = 1
    x.requires_grad_()
    fast = any_backend == "triton"
    assert torch.autograd.gradcheck(functional.noisy_or_pool, x, fast_mode=fast)
    assert torch.autograd.gradgradcheck(functional.noisy_or_pool, x, fast_mode=fast)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled kernels have read FUSES")
def test_products_lose_nothing_where_sums_are_rounded_apart(monkeypatch):
    """As Triton's interpreter does by itself, where a GPU rounds a product and a sum at once."""
    monkeypatch.setattr(noisy_or_frames, "FUSES", tl.constexpr(False))
    x = torch.rand(2, 3, 200) * 1e-3
    with checked_backend("triton"):
        y = functional.noisy_or_pool(x)
    torch.testing.assert_close(y, reference.noisy_or_pool(x.double()).float(), rtol=3e-7, atol=0)
