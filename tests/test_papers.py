"""The oracle against what the papers print."""

from functools import partial

import pytest
import torch
from cases import REAL_VALUED, make_case

from milkernels import reference

FLOAT64 = torch.float64


def bag(frames: int = 9) -> torch.Tensor:
    return torch.rand(1, 1, frames, dtype=FLOAT64)


def gradient_of(function, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def test_mean_gives_every_frame_the_same_gradient():
    x = bag()
    assert torch.allclose(gradient_of(reference.mean_pool, x), torch.full_like(x, 1 / 9))


def test_max_gives_the_largest_frame_the_whole_gradient():
    x = bag()
    expected = torch.zeros_like(x)
    expected[0, 0, x.argmax()] = 1
    assert torch.equal(gradient_of(reference.max_pool, x), expected)


def test_max_mean_is_their_sum():
    x = bag()
    expected = torch.full_like(x, 1 / 9)
    expected[0, 0, x.argmax()] += 1
    assert torch.allclose(reference.max_mean_pool(x), x.amax(-1) + x.mean(-1))
    assert torch.allclose(gradient_of(reference.max_mean_pool, x), expected)


def test_noisy_or_is_the_probability_of_any_and_its_gradient_that_of_no_other():
    x = bag()
    y = reference.noisy_or_pool(x)
    assert torch.allclose(y, 1 - (1 - x).prod(-1))
    expected = (1 - y[..., None]) / (1 - x)
    assert torch.allclose(gradient_of(reference.noisy_or_pool, x), expected)


def test_noisy_or_of_logits_has_the_bags_complement_times_the_frame_as_gradient():
    z = torch.randn(1, 1, 9, dtype=FLOAT64)
    pool = partial(reference.noisy_or_pool, from_logits=True)
    expected = (1 - pool(z)[..., None]) * z.sigmoid()
    assert torch.allclose(gradient_of(pool, z), expected)


@pytest.mark.parametrize("r", [-3.0, 0.5, 5.0])
def test_log_mean_exp_is_the_papers_with_the_softmax_as_gradient(r):
    x = bag()
    pool = partial(reference.log_mean_exp_pool, sharpness=r)
    assert torch.allclose(pool(x), (r * x).exp().mean(-1).log() / r)
    assert torch.allclose(gradient_of(pool, x), torch.softmax(r * x, -1))


def test_log_mean_exp_goes_from_minimum_to_mean_to_maximum():
    x = bag()
    for r, expected in ((-1e6, x.amin(-1)), (1e-9, x.mean(-1)), (1e6, x.amax(-1))):
        assert torch.allclose(reference.log_mean_exp_pool(x, r), expected, atol=1e-5)


def test_linear_softmax_is_the_ratio_of_sums():
    x = bag()
    y = reference.linear_softmax_pool(x)
    assert torch.allclose(y, (x**2).sum(-1) / x.sum(-1))
    expected = (2 * x - y[..., None]) / x.sum(-1, keepdim=True)
    assert torch.allclose(gradient_of(reference.linear_softmax_pool, x), expected)


def test_exp_softmax_gradient_is_the_papers():
    x = bag()
    y = reference.exp_softmax_pool(x)
    weight = x.exp() / x.exp().sum(-1, keepdim=True)
    assert torch.allclose(y, (weight * x).sum(-1))
    expected = (1 - y[..., None] + x) * weight
    assert torch.allclose(gradient_of(reference.exp_softmax_pool, x), expected)


def test_attention_gradients_are_the_papers():
    """d y / d y_i = w_i / Σ w and d y / d w_i = (y_i - y) / Σ w."""
    x, scores = bag(), torch.randn(1, 1, 9, dtype=FLOAT64, requires_grad=True)
    weight = scores.exp()
    y = reference.attention_pool(x, scores)
    expected = weight / weight.sum(-1, keepdim=True)
    assert torch.allclose(
        gradient_of(lambda x: reference.attention_pool(x, scores), x), expected.detach()
    )
    by_score = torch.autograd.grad(y.sum(), scores)[0]
    by_weight = (x - y[..., None]) / weight.sum(-1, keepdim=True)
    assert torch.allclose(by_score, by_weight * weight)


@pytest.mark.parametrize("n", [0.3, 1.0, 2.5])
def test_power_pooling_gradient_is_the_papers(n):
    x = bag()
    power = torch.tensor([n], dtype=FLOAT64)
    y = reference.power_pool(x, power)
    assert torch.allclose(y, (x * x**n).sum(-1) / (x**n).sum(-1))
    expected = ((n + 1) * x**n - n * x ** (n - 1) * y[..., None]) / (x**n).sum(-1, keepdim=True)
    gradient = gradient_of(lambda x: reference.power_pool(x, power), x)
    assert torch.allclose(gradient, expected)


@pytest.mark.parametrize("n", [0.5, 1.0, 3.0])
def test_power_pooling_raises_the_frames_above_its_threshold(n):
    """θ = n / (n + 1): the gradient is positive where y_i > θ y and negative below."""
    x = bag(50)
    power = torch.tensor([n], dtype=FLOAT64)
    y = reference.power_pool(x, power)
    gradient = gradient_of(lambda x: reference.power_pool(x, power), x)
    assert torch.equal(gradient > 0, x > n / (n + 1) * y[..., None])


def test_auto_pooling_weighs_by_the_scaled_exponential():
    x, alpha = bag(), torch.tensor([2.5], dtype=FLOAT64)
    weight = (2.5 * x).exp()
    expected = (weight * x).sum(-1) / weight.sum(-1)
    assert torch.allclose(reference.auto_pool(x, alpha), expected)


def test_power_exponential_weight_subsumes_both_softmaxes():
    x = bag()
    zero, one = torch.zeros(1, dtype=FLOAT64), torch.ones(1, dtype=FLOAT64)
    power_exp = reference.power_exp_pool
    assert torch.allclose(power_exp(x, one, zero), reference.linear_softmax_pool(x))
    assert torch.allclose(power_exp(x, zero, one), reference.exp_softmax_pool(x))
    weight = x**1.7 * (0.6 * x).exp()
    expected = (weight * x).sum(-1) / weight.sum(-1)
    assert torch.allclose(power_exp(x, 1.7 * one, 0.6 * one), expected)


def test_attention_over_classes_is_the_ratio_of_the_localisation_vectors_sums():
    """O'' = Σ O(t) Z_loc(t) / Σ Z_loc(t), with Z_loc the softmax over the classes of a frame."""
    x, scores = torch.rand(1, 3, 9, dtype=FLOAT64), torch.randn(1, 3, 9, dtype=FLOAT64)
    z_loc = scores.exp() / scores.exp().sum(1, keepdim=True)
    expected = (x * z_loc).sum(-1) / z_loc.sum(-1)
    assert torch.allclose(reference.attention_pool(x, scores, normalize="classes"), expected)


def test_attention_over_classes_gives_no_class_less_than_the_clamp():
    """One class takes the whole softmax: the other's frames weigh 1e-7 each, and so the same."""
    x, scores = torch.rand(1, 2, 9, dtype=FLOAT64), torch.zeros(1, 2, 9, dtype=FLOAT64)
    scores[0, 1] = -100 - torch.arange(9)
    y = reference.attention_pool(x, scores, normalize="classes")
    assert torch.allclose(y, x.mean(-1))


def test_rank_pooling_is_the_maximum_at_0_and_the_mean_at_1():
    x = bag()
    assert torch.equal(reference.rank_pool(x, 0.0), reference.max_pool(x))
    assert torch.allclose(reference.rank_pool(x, 1.0), reference.mean_pool(x))


def test_rank_pooling_weighs_by_powers_of_the_decay():
    x = torch.tensor([[[0.2, 0.9, 0.5]]], dtype=FLOAT64)
    expected = (0.9 + 0.5 * 0.5 + 0.25 * 0.2) / 1.75
    assert torch.allclose(reference.rank_pool(x, 0.5), torch.tensor([[expected]], dtype=FLOAT64))
    gradient = gradient_of(lambda x: reference.rank_pool(x, 0.5), x)
    assert torch.allclose(gradient, torch.tensor([0.25, 1.0, 0.5], dtype=FLOAT64) / 1.75)


def test_attention_activations_are_the_systems():
    x, scores = bag(), 20 * torch.randn(1, 1, 9, dtype=FLOAT64)
    for name, activated in {
        "sigmoid": scores.sigmoid(),
        "tanh": scores.tanh(),
        "clamp": scores.clamp(-10, 10),
    }.items():
        pooled = reference.attention_pool(x, scores, name)
        assert torch.allclose(pooled, reference.attention_pool(x, activated))


@pytest.mark.parametrize("name", REAL_VALUED)
def test_logits_are_sigmoids(name):
    case = make_case(name, from_logits=True, dtype=FLOAT64)
    x, *rest = case.tensors
    pooled = case.function(reference)(x, *rest, **case.keywords)
    case.keywords["from_logits"] = False
    assert torch.allclose(pooled, case.function(reference)(x.sigmoid(), *rest, **case.keywords))
