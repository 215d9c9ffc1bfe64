"""Logits, scores and embeddings whose log-weights in base 2 are rounded by whole powers of two:
results are finite and the oracle's."""

import pytest
import torch
from cases import assert_close

from milkernels import functional, reference

SIZES = (1e6, 1e7, 1e9, 1e10, 1e12, 1e20, 1e30)


def scores_of(kind: str, size: float, shape: tuple[int, int, int]) -> torch.Tensor:
    """All the same; some half as large; one frame alone; one class alone."""
    if kind == "equal":
        return torch.full(shape, size)
    if kind == "halves":
        return torch.where(torch.rand(shape) < 0.5, size, size / 2)
    scores = torch.randn(shape)
    if kind == "one frame":
        scores[:, :, 1] = size
    else:
        scores[:, 0] = size
    return scores


def run(function, tensors):
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(*tensors)
    return [y.detach(), *torch.autograd.grad(y.sum(), tensors)]


FORMS = {
    "attention": lambda module, dim: lambda s, x: module.attention_pool(x, s, dim=dim),
    "linear softmax": lambda module, dim: (
        lambda s, _: module.linear_softmax_pool(s, dim=dim, from_logits=True)
    ),
    "exponential softmax": lambda module, dim: lambda s, _: module.exp_softmax_pool(s, dim=dim),
    "power": lambda module, dim: (
        lambda s, _: module.power_pool(
            s, s.new_full((s.shape[3 - dim],), 50.0), dim=dim, from_logits=True
        )
    ),
    "weighted statistics": lambda module, dim: (
        lambda s, x: module.weighted_stats_pool(x, s, dim=dim)
    ),
}


@pytest.mark.parametrize("kind", ["equal", "halves", "one frame", "one class"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_they_give_the_oracles_values_and_finite_gradients(
    kernel_backend, device, name, dim, sign, kind
):
    for size in SIZES:
        for shape in ((2, 3, 7), (1, 20, 40), (1, 5, 300)):
            if name == "exponential softmax" and size > 1e18:
                continue  # x · x overflows
            scores, x = scores_of(kind, sign * size, shape).to(device), torch.rand(shape).to(device)
            if dim == 1:
                scores, x = scores.mT.contiguous(), x.mT.contiguous()
            used = (scores, x) if "softmax" not in name and name != "power" else (scores,)
            given = run(lambda s, x=x: FORMS[name](functional, dim)(s, x), used[:1])
            exact = FORMS[name](reference, dim)(scores.double(), x.double())
            assert all(one.isfinite().all() for one in given), size
            assert_close(given[:1], [exact], relative=2e-6)


@pytest.mark.parametrize("fill", [-1e10, -1e30])
def test_a_padded_clips_value_is_the_mean(kernel_backend, device, fill):
    x = torch.rand(2, 3, 30, device=device)
    y = functional.attention_pool(x, torch.full_like(x, fill))
    torch.testing.assert_close(y, x.mean(-1))


def test_scores_that_overflow_in_base_two_take_their_frames_out(kernel_backend, device):
    x = torch.rand(2, 3, 30, device=device)
    scores = torch.full_like(x, torch.finfo(torch.float32).min)
    assert (functional.attention_pool(x, scores) == 0).all()
    scores[..., 4] = 0
    torch.testing.assert_close(functional.attention_pool(x, scores), x[..., 4])
    scores[..., 5] = torch.finfo(torch.float32).max
    torch.testing.assert_close(functional.attention_pool(x, scores), x[..., 5])
