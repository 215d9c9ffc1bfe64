"""Rank pooling's own promises: the order, the extremes of the decay, NaN, long bags."""

import math

import pytest
import torch
from cases import assert_close, make_case

from milkernels import functional, reference

LAYOUTS = pytest.mark.parametrize("dim", [-1, 1])

#: Lengths that are ranked in different ways: by counting and by digits of either size, or of many
#: classes together; on a GPU in registers, and beyond 1024 frames by PyTorch's sort.
LENGTHS = (5, 300, 1100)


def pool_and_gradient(x, decay, **keywords):
    x = x.detach().requires_grad_()
    y = functional.rank_pool(x, decay, **keywords)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frames", LENGTHS)
def test_of_equal_frames_the_earlier_ranks_first(any_backend, device, frames, dtype, dim):
    """-0 and 0 among them."""
    x = torch.tensor([-1.0, -0.0, 0.0, 1.0])[torch.randint(4, (2, 3, frames))].to(device, dtype)
    decay = 0.5 ** (4 / frames)
    layout = x if dim == -1 else x.transpose(1, 2).contiguous()
    _, gradient = pool_and_gradient(layout, decay, dim=dim)
    gradient = gradient if dim == -1 else gradient.transpose(1, 2)
    order = x.cpu().sort(dim=-1, descending=True, stable=True).indices
    weight = decay ** torch.arange(frames).double()
    expected = (
        torch.zeros(2, 3, frames)
        .double()
        .scatter(-1, order, (weight / weight.sum()).expand(2, 3, -1))
    )
    assert_close([gradient.cpu()], [expected], relative=2 * torch.finfo(dtype).eps)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [4, 15, 16, 35])
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 400, 2048, 2049])
def test_many_classes_rank_as_each_alone(frames, classes, dtype, dim):
    """Whatever the values: equal, infinite, the smallest there are."""
    x = torch.randn(2, classes, frames).to(dtype)
    rare = torch.tensor(
        [0.0, -0.0, torch.finfo(dtype).smallest_normal / 2, math.inf, -math.inf, 1.0]
    )
    drawn = rare.to(dtype)[torch.randint(len(rare), x.shape)]
    x = torch.where(torch.rand(x.shape) < 0.3, drawn, x)
    mask = torch.rand(2, frames) < 0.8

    def pooled(x):
        layout = x if dim == -1 else x.transpose(1, 2).contiguous()
        y, gradient = pool_and_gradient(layout, 0.97, dim=dim, mask=mask, from_logits=True)
        return y, gradient if dim == -1 else gradient.transpose(1, 2)

    alone = [pooled(x[:, [index]]) for index in range(classes)]
    for together, each in zip(pooled(x), zip(*alone, strict=True), strict=True):
        assert torch.equal(together, torch.cat(each, dim=1))


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("frames", LENGTHS)
def test_a_decay_of_0_is_the_maximum(any_backend, device, frames, from_logits):
    x = torch.randn(2, 3, frames, device=device)
    x[:, :, [1, 4]] = 7.0
    y, gradient = pool_and_gradient(x, 0.0, from_logits=from_logits)
    maximum = x.detach().requires_grad_()
    expected = functional.max_pool(maximum, from_logits=from_logits)
    assert torch.allclose(y, expected)
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), maximum)[0])


@pytest.mark.parametrize("decay", [1, 1.0], ids=["integer", "float"])
@pytest.mark.parametrize("frames", LENGTHS)
def test_a_decay_of_1_is_the_mean(any_backend, device, frames, decay):
    x = torch.randn(2, 3, frames, device=device)
    y, gradient = pool_and_gradient(x, decay)
    assert torch.allclose(y, x.mean(-1), atol=1e-6)
    assert torch.allclose(gradient, torch.full_like(x, 1 / frames))


@LAYOUTS
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("frames", LENGTHS)
def test_nan_spoils_its_bag_and_class_with_the_gradients(any_backend, device, frames, decay, dim):
    x = torch.rand(2, 3, frames, device=device)
    x[1, 2, 3] = torch.nan
    mask = torch.rand(2, frames, device=device) < 0.8
    mask[1, 3] = True
    layout = x if dim == -1 else x.transpose(1, 2).contiguous()
    y, gradient = pool_and_gradient(layout, decay, dim=dim, mask=mask)
    gradient = gradient if dim == -1 else gradient.transpose(1, 2)
    spoilt = torch.zeros_like(y, dtype=torch.bool)
    spoilt[1, 2] = True
    assert torch.equal(y.isnan(), spoilt)
    assert torch.equal(gradient.isnan(), spoilt[..., None] & mask[:, None])
    assert (gradient[~mask[:, None].expand_as(gradient)] == 0).all()


def test_logits_are_ranked_before_the_sigmoid(kernel_backend, device):
    """Which sends all of these to 1."""
    z = torch.tensor([[[40.0, 44.0, 42.0]]], dtype=torch.float64, device=device)
    _, gradient = pool_and_gradient(z, 0.5, from_logits=True)
    x = z.neg().exp()
    assert torch.allclose(
        gradient / x * 1.75, torch.tensor([0.25, 1.0, 0.5], device=device).double()
    )


@LAYOUTS
@pytest.mark.parametrize("decay", [0.3, 0.99, 0.9998])
def test_a_bag_longer_than_registers_hold(kernel_backend, device, decay, dim):
    case = make_case("rank", 2, 3, 1500, dim=dim, masked=True, from_logits=True, device=device)
    case.keywords["decay"] = decay
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=1e-6)


@pytest.mark.parametrize("frames", [32_767, 32_768, 1_000_000])
@pytest.mark.parametrize("decay", [0.5, 0.9998, 0.999999])
def test_weights_of_large_ranks_keep_their_digits(frames, decay):
    """With 16-bit ranks and 32-bit ones, and where most weights are 0."""
    case = make_case("rank", 1, 1, frames)
    case.keywords["decay"] = decay
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=1e-6)


def test_clustered_values_are_told_apart(kernel_backend, device):
    """All of one leading digit, so that a selection by it selects all."""
    case = make_case("rank", 1, 2, 700, device=device)
    case.tensors[0] = 1 + case.x / 1024
    case.keywords["decay"] = 0.5
    assert_close(case.run(functional), case.to(torch.float64).run(reference), relative=1e-6)


def test_a_triton_launch_asks_no_device_for_a_number():
    """As a tensor the decay's logarithm was on the default device, and waited for it."""
    from milkernels.kernels import rank  # noqa: PLC0415 - Triton

    with torch.device("meta"):
        launches, _ = rank.forward(torch.rand(2, 3, 8, device="cpu"), None, 0.7, False, None)
    parts = launches[0].arguments["log2_decay"]
    assert sum(parts) == pytest.approx(math.log2(0.7), rel=1e-15)
    for part in parts:
        assert torch.tensor(part).double() == part
