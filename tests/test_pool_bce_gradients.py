"""The gradients that the loss in one pass leaves: their scale, their range, and further passes."""

from __future__ import annotations

import pytest
import torch
from cases import PROBABILITIES, assert_close, make_case
from loss_cases import arguments_of, labels_of, run, truth

from milkernels import functional

LAYOUTS = pytest.mark.parametrize("dim", [-1, 1])
EVERY_POOLING = pytest.mark.parametrize("name", PROBABILITIES)


def test_float16_keeps_gradients_that_only_the_loss_scale_lifts(kernel_backend, device):
    """Of many labels the mean's gradients are below float16's range before they are scaled."""
    case = make_case("mean", 64, 128, 16, from_logits=True, dtype=torch.float16, device=device)
    target = labels_of(case)
    _, x_gradient = run(functional, case, target, scale=65536)
    _, exact = truth(case, target, scale=65536)
    assert_close([x_gradient], [exact], relative=2e-3)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mean", "attention", "max"])
def test_a_scaled_loss_overflows_float16_to_infinity(any_backend, device, name, reduction, dim):
    """As gradient scalers must see. Of the loss itself float16's largest number stands for more."""
    case = make_case(name, 2, 3, 1, dim=dim, dtype=torch.float16, device=device)
    largest, cells = torch.finfo(torch.float16).max, 6 if reduction == "mean" else 1
    target = torch.ones(2, 3, device=device)
    for frame, exact in ((2.0**-8, 2.0**8), (0.0, largest)):
        case.tensors[0] = torch.full_like(case.x, frame)
        for scale in (1.0, 0.5, 8.0 * cells, 2.0**18):
            _, x_gradient, *_ = run(functional, case, target, scale=scale, reduction=reduction)
            expected = torch.full_like(case.x, -exact * scale / cells, dtype=torch.float32).half()
            torch.testing.assert_close(x_gradient, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_of_gradients_exist_in_float16(any_backend, device, reduction):
    """Of one gradient alone, too, where others are none."""
    case = make_case("attention", 2, 3, 4, dtype=torch.float16, device=device)
    x, scores = (tensor.requires_grad_() for tensor in case.tensors)
    target = labels_of(case)
    losses = functional.pool_bce("attention", x, target, scores, reduction=reduction)
    gradient = torch.rand_like(losses, requires_grad=True)
    (first,) = torch.autograd.grad(losses, x, gradient, create_graph=True)
    seconds = torch.autograd.grad(first.float().square().sum(), (x, scores, gradient))
    assert all(second.isfinite().all() for second in seconds)


@pytest.mark.parametrize("dim", [-1, 1])
def test_one_classs_loss_reaches_all_of_a_frames_scores_in_float16(any_backend, device, dim):
    """Where classes compete: those without a loss's gradient of their own too."""
    case = make_case("class_attention", 2, 3, dim=dim, dtype=torch.float16, device=device)
    target, results = labels_of(case), []
    for dtype in (torch.float16, torch.float64):
        x, scores = (tensor.to(dtype) for tensor in case.tensors)
        keywords = {"dim": dim, "normalize": "classes", "from_logits": False, "reduction": "none"}
        losses = functional.pool_bce("attention", x, target, scores.requires_grad_(), **keywords)
        results.append(torch.autograd.grad(losses[:, 0].sum(), scores)[0])
    assert_close(results[:1], results[1:], relative=2e-3)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["power_exp", "class_attention", "log_mean_exp"])
def test_a_second_backward_pass_gives_the_same(any_backend, device, name, reduction):
    """The first may have scaled its gradients in place."""
    case = make_case(name, 2, 3, from_logits=True, device=device)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    pooling, _, keywords = arguments_of(case)
    target = labels_of(case)
    x, *params = tensors
    loss = functional.pool_bce(pooling, x, target, *params, reduction=reduction, **keywords)
    first = torch.autograd.grad(3 * loss.sum(), tensors, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(3 * loss.sum(), tensors, retain_graph=True)
    third = torch.autograd.grad(loss.sum(), tensors)
    for one, before, again, single in zip(first, kept, second, third, strict=True):
        assert torch.equal(one, before)
        assert torch.equal(one, again)
        assert_close([one], [3 * single], relative=1e-5)


def test_the_target_gets_no_gradient(any_backend, device):
    case = make_case("mean", device=device)
    target = labels_of(case).requires_grad_()
    loss = functional.pool_bce("mean", case.x.requires_grad_(), target, from_logits=False)
    assert torch.autograd.grad(loss, target, allow_unused=True) == (None,)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@EVERY_POOLING
def test_gradients_of_gradients_exist(kernel_backend, device, name, reduction):
    options = {"from_logits": True, "dtype": torch.float64, "device": device}
    case = make_case(name, 2, 2, 3, **options)
    target = labels_of(case)
    pooling, _, keywords = arguments_of(case)

    def loss(x, *params):
        return functional.pool_bce(pooling, x, target, *params, reduction=reduction, **keywords)

    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    fast = kernel_backend == "triton"
    assert torch.autograd.gradcheck(loss, tensors, fast_mode=fast)
    assert torch.autograd.gradgradcheck(loss, tensors, fast_mode=fast)


@pytest.mark.parametrize("by", [1.0, 0.5])
def test_scaling_in_place_says_what_it_changes(kernel_backend, device, by):
    filled = torch.rand(2, 3, 8, device=device)
    expected = by * filled
    arguments = (filled, torch.tensor(by, device=device), kernel_backend)
    torch.library.opcheck(torch.ops.milkernels.scale_.default, arguments)
    torch.ops.milkernels.scale_(*arguments)
    assert torch.equal(filled, expected)


@pytest.mark.parametrize("learned", ["x", "scores"])
def test_one_of_two_inputs_may_be_fixed(any_backend, device, learned):
    case = make_case("attention", 2, 3, from_logits=True, device=device)
    x, scores = case.tensors
    tensor = (x if learned == "x" else scores).requires_grad_()
    target = labels_of(case)
    loss = functional.pool_bce("attention", x, target, scores)
    (gradient,) = torch.autograd.grad(2 * loss, tensor)
    _, *exact = truth(case, target, scale=2)
    assert_close([gradient], [exact[learned == "scores"]], relative=1e-5)
