"""Gated fusion, and the modules of embedding-level pooling."""

from __future__ import annotations

import eager
import pytest
import torch
from budget import assert_within_budget
from cases import HALF_AND_SINGLE, Case, assert_close

import milkernels
from milkernels import functional, nn, reference


class FusionCase(Case):
    """c, the weight and the bias."""

    def to(self, dtype):
        return FusionCase(self.name, [tensor.to(dtype) for tensor in self.tensors])

    def bag_gradient(self):
        values = torch.arange(self.x.numel(), device=self.x.device) % 7 - 3
        return values.reshape(self.x.shape).to(self.x.dtype)

    def run(self, module):
        return self.run_function(module.gated_fusion)


def fusion_case(bags=4, width=18, dtype=torch.float32, device="cpu"):
    shapes = ((bags, width), (width, width), (width,))
    tensors = [torch.randn(shape).to(device, dtype) for shape in shapes]
    return FusionCase("gated_fusion", tensors)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("width", [5, 18, 130])
def test_errors_stay_within_twice_eager_pytorchs(kernel_backend, device, width, dtype):
    assert_within_budget(fusion_case(width=width, dtype=dtype, device=device), eager.gated_fusion)


def test_float64_equals_the_oracle(kernel_backend, device):
    case = fusion_case(dtype=torch.float64, device=device)
    assert_close(case.run(functional), case.run(reference), relative=1e-13)


def test_it_is_gmaps_equation_11(any_backend, device):
    c, weight, bias = fusion_case(dtype=torch.float64, device=device).tensors
    expected = torch.sigmoid(torch.einsum("nm,bm->bn", weight, c) + bias) * c
    assert torch.allclose(functional.gated_fusion(c, weight, bias), expected, rtol=1e-12)


@pytest.mark.parametrize(("bags", "width"), [(0, 6), (3, 0)])
def test_empty_tensors_are_fused_and_differentiated(any_backend, device, bags, width):
    y, to_c, to_weight, to_bias = fusion_case(bags, width, device=device).run(functional)
    assert y.shape == to_c.shape == (bags, width)
    assert to_weight.count_nonzero() == to_bias.count_nonzero() == 0


def test_closed_gates_have_finite_gradients(any_backend, device):
    case = fusion_case(dtype=torch.float32, device=device)
    case.tensors[2] -= 1000
    assert all(tensor.isfinite().all() for tensor in case.run(functional))


def test_any_strides_give_the_same(any_backend, device):
    case = fusion_case(dtype=torch.float64, device=device)
    truth = case.run(reference)
    case.tensors[:2] = [tensor.mT.contiguous().mT for tensor in case.tensors[:2]]
    assert_close(case.run(functional), truth, relative=1e-13)


def test_parameters_may_have_their_own_dtype(any_backend, device):
    case = fusion_case(dtype=torch.bfloat16, device=device)
    case.tensors[1:] = [tensor.float() for tensor in case.tensors[1:]]
    ours = case.run(functional)
    dtypes = [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert [tensor.dtype for tensor in ours] == dtypes
    assert_close(ours, case.to(torch.float64).run(reference), relative=2e-2)


def test_gradients_are_the_derivatives(any_backend, device):
    case = fusion_case(2, 3, dtype=torch.float64, device=device)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    assert torch.autograd.gradcheck(functional.gated_fusion, tensors)
    assert torch.autograd.gradgradcheck(functional.gated_fusion, tensors)


def test_opcheck_passes(kernel_backend, device):
    c, gate = torch.randn(2, 3, 5, device=device)
    operators = torch.ops.milkernels
    torch.library.opcheck(operators.gated_fusion.default, (c, gate, kernel_backend))
    for needs in ([True, True], [True, False], [False, True]):
        arguments = (torch.ones_like(c), c, gate, needs, kernel_backend)
        torch.library.opcheck(operators.gated_fusion_backward.default, arguments)


@pytest.mark.parametrize(
    ("error", "message", "shapes"),
    [
        (ValueError, "c: expected 2 dimensions (batch, N)", ((4,), (4, 4), (4,))),
        (ValueError, "weight: expected shape (4, 4), (N, N)", ((2, 4), (4, 5), (4,))),
        (ValueError, "bias: expected shape (4,), (N,)", ((2, 4), (4, 4), (1, 4))),
        (TypeError, "bias: expected a tensor", ((2, 4), (4, 4), None)),
    ],
)
def test_errors_name_the_argument(error, message, shapes):
    with pytest.raises(error) as caught:
        functional.gated_fusion(*(shape and torch.zeros(shape) for shape in shapes))
    assert message in str(caught.value)


# Modules.


def test_gmap_is_the_papers_pooling_and_gate(any_backend, device):
    module = nn.GMAP(12).to(device, torch.float64)
    assert module.pool.heads == 4
    h = torch.randn(2, 12, 37, dtype=torch.float64, device=device)
    mask = torch.rand(2, 37, device=device) < 0.7
    pooled = reference.attention_stats_pool(h, module.pool.query, mask)
    gate = module.fusion.gate
    expected = torch.sigmoid(pooled @ gate.weight.T + gate.bias) * pooled
    assert torch.allclose(module(h, mask), expected, rtol=1e-12)
    assert sum(parameter.numel() for parameter in module.parameters()) == 12 + 24 * 24 + 24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_parameters_may_be_wider_than_autocasts_products(any_backend, device, given, dtype):
    """In float64, which autocast does not cast."""
    c = torch.randn(2, 3, dtype=given, device=device)
    weight, bias = (torch.randn(s, dtype=torch.float64, device=device) for s in ((3, 3), (3,)))
    with torch.autocast(device, dtype):
        u = functional.gated_fusion(c, weight.requires_grad_(), bias)
    assert u.dtype == given
    assert_close([u], [reference.gated_fusion(c.double(), weight, bias)], relative=0.05)
    assert torch.autograd.grad(u.sum(), weight)[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("frame_dim", [-1, 1])
def test_modules_train_under_autocast(any_backend, device, frame_dim, dtype):
    linear = torch.nn.Linear(6, 8).to(device)
    module = nn.GMAP(8, heads=2, frame_dim=frame_dim).to(device)
    x = torch.randn(3, 20, 6, device=device)
    with torch.autocast(device, dtype):
        h = linear(x)
        u = module(h if frame_dim == 1 else h.transpose(1, 2))
    assert u.dtype == dtype
    u.float().square().sum().backward()
    parameters = (*linear.parameters(), *module.parameters())
    assert all(p.grad.isfinite().all() and p.grad.count_nonzero() for p in parameters)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_modules_train_in_their_own_dtype(any_backend, device, dtype):
    module = nn.GMAP(8, heads=2).to(device, dtype)
    u = module(torch.randn(3, 8, 20, device=device, dtype=dtype))
    u.float().square().sum().backward()
    assert u.dtype == dtype
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_modules_compile_into_one_graph():
    module = nn.GMAP(8, heads=2)
    h = torch.randn(3, 8, 20)
    with milkernels.backend("cpp"):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(h), module(h), atol=1e-6)
        compiled(h).sum().backward()
    assert module.pool.query.grad.count_nonzero()


def test_modules_say_what_they_are():
    text = repr(nn.GMAP(8, heads=2, frame_dim=1))
    assert "dim=8, heads=2, frame_dim=1" in text


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.AttentionStatsPool(10, 4), "heads: expected a divisor of dim = 10, got 4"),
        (lambda: nn.AttentionStatsPool(10, 0), "heads: expected a divisor of dim = 10, got 0"),
        (lambda: nn.AttentionStatsPool(0), "dim: expected at least 1 channel, got 0"),
        (lambda: nn.GMAP(8, frame_dim=0), "frame_dim: expected -1 or 2"),
        (lambda: nn.GatedFusion(0), "dim: expected at least 1 channel, got 0"),
    ],
)
def test_errors_of_the_modules_are_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
