"""Attention over frequency and then over time: the module."""

import copy
import pickle

import pytest
import torch
from linear_attention_cases import VARIANTS, naive

from milkernels import nn


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_pool_frequencies_and_then_frames(any_backend, device, variant):
    module = nn.TwoStepAttention(6, 9, variant).to(device)
    x = torch.randn(2, 4, 9, 6, device=device)
    frames = module.over_frequency(x)
    assert frames.shape == (2, 4, 9)
    steps = [
        (step.attention.weight, step.attention.bias, step.classes.weight, step.classes.bias)
        for step in (module.over_frequency, module.over_time)
    ]
    expected = naive(naive(x, *steps[0], variant), *steps[1], variant)
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_two_step_attention_has_the_papers_number_of_parameters():
    """Layers of their own in each step, 64 frequencies and 311 frames."""
    module = nn.TwoStepAttention(64, 311)
    assert sum(parameter.numel() for parameter in module.parameters()) == 202_384


def test_two_step_attention_starts_as_linear_layers_do():
    torch.manual_seed(3)
    module = nn.TwoStepAttention(6, 9)
    torch.manual_seed(3)
    layers = [torch.nn.Linear(width, width) for width in (6, 6, 9, 9)]
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(map(torch.equal, module.parameters(), expected))


def test_two_step_attention_copies_pickles_and_reloads():
    module = nn.TwoStepAttention(6, 9)
    assert list(module.state_dict()) == [
        f"{step}.{layer}.{parameter}"
        for step in ("over_frequency", "over_time")
        for layer in ("attention", "classes")
        for parameter in ("weight", "bias")
    ]
    x = torch.randn(2, 4, 9, 6)
    other = nn.TwoStepAttention(6, 9)
    other.load_state_dict(module.state_dict())
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_takes_half_precision_and_float32_parameters(any_backend, device, variant, dtype):
    module = nn.TwoStepAttention(6, 9, variant).to(device)
    convolution = torch.nn.Conv2d(1, 4, 1).to(device)
    with torch.autocast(device, dtype):
        x = convolution(torch.randn(2, 1, 9, 6, device=device))
        y = module(x)
    assert x.dtype == y.dtype == dtype
    y.float().square().sum().backward()
    parameters = (*convolution.parameters(), *module.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in parameters)


def test_another_number_of_frames_is_refused():
    message = "x: expected shape (batch, classes, 9, 6), frames by frequencies, got (2, 4, 6, 9)"
    with pytest.raises(ValueError) as caught:
        nn.TwoStepAttention(6, 9)(torch.rand(2, 4, 6, 9))
    assert str(caught.value) == message
