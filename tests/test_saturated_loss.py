"""A bag far on the wrong side is learnt: its loss and gradients are those of its logits."""

import pytest
import torch
from cases import PROBABILITIES, Case, assert_close, make_case
from loss_cases import run, truth
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from milkernels import functional

#: Poolings that know how far y is from 1, where y is rounded to it.
KNOW_THE_REST = ("max", "noisy_or")

LABELS = pytest.mark.parametrize("label", [0.0, 0.3, 1.0])


def of_one_frame(name: str, logits: torch.Tensor, device: str) -> Case:
    """A class with a bag of one frame for each logit."""
    case = make_case(name, 1, len(logits), 1, from_logits=True, device=device)
    case.tensors[0] = logits[None, :, None].to(device)
    return case


#: Attention over classes has weights of the whole bag: one frame's value is not its own.
@LABELS
@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name != "class_attention"])
def test_a_bag_of_one_frame_has_that_frames_loss(any_backend, device, name, label):
    # Beyond 88, 1 - y is smaller than the smallest normal number.
    highest = 95.0 if name in KNOW_THE_REST else 8.0
    logits = torch.linspace(-60, highest, 24)
    case = of_one_frame(name, logits, device)
    target = torch.full((1, 24), label, device=device)
    loss, gradient, *_ = run(functional, case, target, reduction="none")
    exact = binary_cross_entropy_with_logits(
        logits.double(), target[0].cpu().double(), reduction="none"
    )
    slope = logits.double().sigmoid() - label
    relative = 1e-5 if name in KNOW_THE_REST else 3e-4
    assert_close([loss[0].cpu(), gradient[0, :, 0].cpu()], [exact, slope], relative)


@LABELS
@pytest.mark.parametrize("frames", [20, 45, 100, 1000])
@pytest.mark.parametrize("dim", [-1, 1])
def test_noisy_or_of_many_frames_is_learnt(any_backend, device, dim, frames, label):
    """dz = x ((1 - t) - t (1 - y) / y), however close to 1 the many frames bring y."""
    z = torch.randn(2, 3, frames)
    case = Case(
        "noisy_or", [(z if dim == -1 else z.mT).to(device)], {"from_logits": True, "dim": dim}
    )
    target = torch.full((2, 3), label, device=device)
    loss, gradient = run(functional, case, target, reduction="none")
    rest = softplus(z.double()).sum(-1, keepdim=True)
    y = -torch.expm1(-rest)
    slope = z.double().sigmoid() * ((1 - label) - label * torch.exp(-rest) / y)
    exact = (1 - label) * rest.clamp(max=100) - label * y.log()
    gradient = gradient if dim == -1 else gradient.mT
    torch.testing.assert_close(loss.cpu().double(), exact[..., 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.cpu().double(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [45, 300])
def test_probabilities_of_noisy_or_are_learnt(any_backend, device, frames):
    x = 0.1 + 0.8 * torch.rand(2, 3, frames)
    case = Case("noisy_or", [x.to(device)], {"from_logits": False})
    loss, gradient = run(functional, case, torch.zeros(2, 3, device=device), reduction="none")
    rest = -torch.log1p(-x.double()).sum(-1)
    assert_close([loss.cpu(), gradient.cpu()], [rest.clamp(max=100), 1 / (1 - x.double())], 1e-5)


def test_a_logit_that_rounds_to_1_does_not_explode(kernel_backend, device):
    """1 - y is 0 in float32 where the sigmoid's slope is not yet."""
    x = torch.linspace(14, 26, 25, device=device)[:, None, None].requires_grad_()
    target = torch.zeros(25, 1, device=device)
    loss = functional.pool_bce("linear_softmax", x, target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    assert ((gradient >= 0) & (gradient <= 2)).all()


def test_noisy_or_knows_how_far_from_1_it_is(kernel_backend, device):
    """Far below a rounding of 1."""
    x = torch.full((1, 1, 20), 1.0, device=device)
    case = Case("noisy_or", [x], {"from_logits": True})
    target = torch.zeros(1, 1, device=device)
    assert_close(run(functional, case, target)[:1], truth(case, target)[:1], relative=1e-4)
    x = torch.full((1, 1, 14), 1.0, device=device)
    case = Case("noisy_or", [x], {"from_logits": True})
    assert_close(run(functional, case, target), truth(case, target), relative=1e-5)
