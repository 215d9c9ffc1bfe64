"""First and second derivatives against finite differences, in float64."""

import pytest
import torch
from cases import POOLINGS, make_case

from milkernels import functional


def checkable(name: str, **options):
    case = make_case(name, 2, 3, 5, dtype=torch.float64, **options)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    pool = case.function(functional)
    return lambda *tensors: pool(*tensors, **case.keywords), tensors


def is_fast(backend: str) -> bool:
    """Along random directions in Triton's interpreter: two calls, not hundreds."""
    return backend == "triton" and not torch.cuda.is_available()


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_gradcheck(any_backend, device, name, dim, from_logits):
    options = {"dim": dim, "from_logits": from_logits, "masked": True, "device": device}
    pool, tensors = checkable(name, **options)
    assert torch.autograd.gradcheck(pool, tensors, fast_mode=is_fast(any_backend))


@pytest.mark.parametrize(
    "name",
    [
        *("linear_softmax", "auto", "power", "attention", "exp_softmax"),
        *("max_mean", "noisy_or", "log_mean_exp", "class_attention"),
    ],
)
def test_values_outside_zero_and_one_have_true_gradients(any_backend, device, name):
    """Below the floor a weight is constant, and its derivative 0."""
    pool, tensors = checkable(name, device=device)
    tensors[0] = torch.tensor([-2.0, -0.5, 0.3, 1.0, 4.0], dtype=torch.float64, device=device)
    tensors[0] = tensors[0].expand(2, 3, 5).contiguous().requires_grad_()
    assert torch.autograd.gradcheck(pool, tensors, fast_mode=is_fast(any_backend))


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("name", POOLINGS)
def test_gradgradcheck(any_backend, device, name, from_logits):
    pool, tensors = checkable(name, from_logits=from_logits, device=device)
    assert torch.autograd.gradgradcheck(pool, tensors, fast_mode=is_fast(any_backend))


@pytest.mark.parametrize("name", POOLINGS)
def test_gradient_of_the_gradients_norm(any_backend, device, name):
    """As in gradient penalties: through a backward pass that is itself differentiated."""
    pool, (x, *rest) = checkable(name, from_logits=True, device=device)
    gradient = torch.autograd.grad(pool(x, *rest).square().sum(), x, create_graph=True)[0]
    gradient.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_only_what_needs_a_gradient_gets_one(any_backend, device):
    pool, (x, power, alpha) = checkable("power_exp", device=device)
    y = pool(x.detach(), power.detach(), alpha)
    (gradient,) = torch.autograd.grad(y.sum(), alpha)
    whole = torch.autograd.grad(pool(x, power, alpha).sum(), alpha)[0]
    assert torch.allclose(gradient, whole)
