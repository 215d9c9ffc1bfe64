"""What happens at the edges: each test is one promise, kept by every backend."""

import pytest
import torch
from cases import BETWEEN_FRAMES, POOLINGS, PROBABILITIES, make_case

from milkernels import functional

PROBABILITY_WEIGHTED = ("linear_softmax", "power", "power_exp")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def pool_and_gradients(name, x, *rest, **keywords):
    tensors = [tensor.detach().requires_grad_() for tensor in (x, *rest)]
    y = getattr(functional, f"{name}_pool")(*tensors, **keywords)
    return y.detach(), torch.autograd.grad(y.sum(), tensors)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_give_probabilities(any_backend, device, name, dtype, from_logits):
    """Values near 1 are where rounding pushes a plain weighted average over it."""
    x = 1 - 1e-3 * torch.rand(4, 16, 33)
    x[0] = 1.0
    x[1, :, ::2] = 0.0
    case = make_case(name, 4, 16, 33, from_logits=from_logits, dtype=dtype, device=device)
    case.tensors[0] = (10 * x if from_logits else x).to(device, dtype)
    y = case.run(functional)[0]
    assert (y >= 0).all() and (y <= 1).all()


@pytest.mark.parametrize("name", BETWEEN_FRAMES)
def test_an_average_lies_between_its_frames(any_backend, device, name):
    x = (5 + 1e-6 * torch.rand(4, 6, 41)).to(device)
    case = make_case(name, 4, 6, 41, device=device)
    case.tensors[0] = x
    y = case.run(functional)[0]
    assert (y >= x.amin(-1)).all() and (y <= x.amax(-1)).all()


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_a_bag_without_real_frames_is_0_and_gets_no_gradient(any_backend, device, name, dim):
    case = make_case(name, 3, 4, 9, dim=dim, masked=True, device=device)
    case.keywords["mask"][1] = False
    y, *gradients = case.run(functional)
    assert (y[1] == 0).all() and (y[0] != 0).all()
    assert (gradients[0][1] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_bags_of_no_frames_are_0_and_differentiable(any_backend, device, name, dim):
    y, *gradients = make_case(name, 2, 3, 0, dim=dim, device=device).run(functional)
    assert y.shape == (2, 3) and (y == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("sizes", [(0, 3, 5), (2, 0, 5)], ids=["no bags", "no classes"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_nothing_in_gives_nothing_out_and_is_differentiable(any_backend, device, name, dim, sizes):
    y, *gradients = make_case(name, *sizes, dim=dim, device=device).run(functional)
    assert y.shape == sizes[:2]
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["no bags", "no classes", "no frames"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_an_empty_slice_is_not_read(any_backend, device, name, dim, axis):
    """It has the strides of its whole, and no memory."""
    case = make_case(name, 2, 3, 5, dim=dim, device=device)
    x_axis = axis if dim == -1 else (0, 2, 1)[axis]
    case.tensors = [
        tensor.narrow(x_axis, 0, 0) if tensor.dim() == 3 else tensor[: 0 if axis == 1 else None]
        for tensor in case.tensors
    ]
    y, *gradients = case.run(functional)
    assert (y == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROBABILITY_WEIGHTED)
def test_a_bag_of_zeros_is_0_with_the_means_gradient(any_backend, device, name, dtype):
    x = torch.zeros(2, 3, 8, dtype=dtype, device=device)
    parameters = make_case(name, 2, 3, 8, dtype=dtype, device=device).tensors[1:]
    y, (gradient, *_) = pool_and_gradients(name, x, *parameters)
    assert (y == 0).all()
    # A weight over the sum of eight like it: a quotient that float32 rounds.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 8), rtol=eps, atol=0)


@pytest.mark.parametrize("name", PROBABILITY_WEIGHTED)
def test_very_negative_logits_keep_their_weights(any_backend, device, name):
    """From logits nothing is floored: at σ(z) = 1e-87 equal frames still weigh the same."""
    z = torch.full((1, 2, 10), -200.0, device=device)
    parameters = make_case(name, 1, 2, 10, device=device).tensors[1:]
    y, gradients = pool_and_gradients(name, z, *parameters, from_logits=True)
    assert (y == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", POOLINGS)
def test_any_finite_logit_gives_finite_results(any_backend, device, name, dtype):
    z = torch.tensor([-1e4, -90.0, -20.0, -9.0, 0.0, 9.0, 20.0, 90.0, 1e4])
    case = make_case(name, 3, 2, 9, from_logits=True, dtype=dtype, device=device)
    case.tensors[0] = z.expand(3, 2, 9).contiguous().to(device, dtype)
    assert all(tensor.isfinite().all() for tensor in case.run(functional))


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_nan_stays_in_its_bag_and_class(any_backend, device, name, dim):
    case = make_case(name, 3, 4, 21, dim=dim, device=device)
    clean_y, clean_gradient, *_ = case.run(functional)
    frames = case.x if dim == -1 else case.x.transpose(1, 2)
    frames[1, 2, 5] = torch.nan
    y, gradient, *_ = case.run(functional)
    elsewhere = torch.ones_like(y, dtype=torch.bool)
    elsewhere[1, 2] = False
    assert y[1, 2].isnan()
    assert torch.equal(y[elsewhere], clean_y[elsewhere])
    if dim == 1:
        gradient, clean_gradient = gradient.transpose(1, 2), clean_gradient.transpose(1, 2)
    assert torch.equal(gradient[elsewhere], clean_gradient[elsewhere])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_a_masked_frame_may_hold_anything(any_backend, device, name, dim, poison):
    case = make_case(name, 3, 4, 21, dim=dim, masked=True, device=device)
    clean = case.run(functional)
    hidden = ~case.keywords["mask"][:, None, :].expand(3, 4, 21)
    for tensor in case.tensors:
        if tensor.dim() == 3:
            (tensor if dim == -1 else tensor.transpose(1, 2))[hidden] = poison
    for poisoned, expected in zip(case.run(functional), clean, strict=True):
        assert torch.equal(poisoned, expected)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
def test_the_first_of_equal_maxima_takes_the_gradient(any_backend, device, dim, from_logits):
    x = torch.full((1, 1, 40), 0.25, device=device)
    x[0, 0, [7, 19, 33]] = 0.75
    layout = x if dim == -1 else x.transpose(1, 2).contiguous()
    _, (gradient,) = pool_and_gradients("max", layout, dim=dim, from_logits=from_logits)
    assert gradient.flatten().nonzero().tolist() == [[7]]


def test_saturated_logits_still_have_one_largest(any_backend, device):
    z = torch.tensor([[[20.0, 34.0, 30.0]]], dtype=torch.float64, device=device)
    _, (gradient,) = pool_and_gradients("max", z, from_logits=True)
    assert gradient.flatten().nonzero().tolist() == [[1]]


def test_a_score_of_minus_infinity_takes_its_frame_out(any_backend, device):
    x = torch.rand(2, 3, 6, device=device)
    scores = torch.randn(2, 3, 6, device=device)
    scores[:, :, 4:] = -torch.inf
    y, gradients = pool_and_gradients("attention", x, scores)
    kept, _ = pool_and_gradients("attention", x[..., :4], scores[..., :4])
    assert torch.allclose(y, kept)
    assert all((gradient[..., 4:] == 0).all() for gradient in gradients)


def test_scores_of_minus_infinity_alone_make_an_empty_bag(any_backend, device):
    x = torch.rand(1, 2, 6, device=device)
    y, gradients = pool_and_gradients("attention", x, torch.full_like(x, -torch.inf))
    assert (y == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_second_run_gives_the_same_bits(any_backend, device, name):
    case = make_case(name, 2, 9, 211, device=device)
    for first, second in zip(case.run(functional), case.run(functional), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["auto", "exp_softmax", "attention", "log_mean_exp"])
def test_large_weights_do_not_overflow(any_backend, device, name):
    case = make_case(name, 2, 3, 17, device=device)
    case.tensors[0] = 100 * torch.randn(2, 3, 17, device=device)
    case.tensors[1:] = [50 * tensor for tensor in case.tensors[1:]]
    assert all(tensor.isfinite().all() for tensor in case.run(functional))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_learned_gradients_do_not_cancel(kernel_backend, device, dtype):
    """The variance of values near 5 with spread 0.01, whose squares differ in the sixth digit."""
    x = (5 + 0.01 * torch.randn(2, 3, 500)).to(device, dtype)
    weight = torch.softmax(x.double(), -1)
    y = (weight * x).sum(-1, keepdim=True)
    variance = (weight * (x - y) ** 2).sum((0, 2))
    _, (_, gradient) = pool_and_gradients("auto", x, torch.ones(3, device=device, dtype=dtype))
    assert torch.allclose(gradient.double(), variance, rtol=1e-3)
