"""Promises that hold for any input: hypothesis draws sizes, strides, dtypes, masks and values.

`pytest tests/test_properties.py --hypothesis-profile=long` draws many, and new ones each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from budget import assert_errors_within_budget, naive_form, together
from cases import POOLINGS, PROBABILITIES, Case
from hypothesis import given, settings
from loss_cases import run as run_with_loss
from packed_cases import PackedCase, naive_packed
from statistics_cases import NAMES as STATISTICS
from strategies import PackedPooling, PaddedPooling, Situation, Statistics, situations
from torch import Tensor

from milkernels import functional, reference

#: The interpreter gets one in so many of the examples, of so few frames.
INTERPRETED_SHARE, INTERPRETED_FRAMES = 8, 17
MANY_CASES = 400


def for_all(
    kind: type[Situation], name: str, backend: str, device: str, check: Callable[[Situation], None]
) -> None:
    """`check` of situations of a kind."""
    interpreted = backend == "triton" and device == "cpu"
    examples = settings.default.max_examples // (INTERPRETED_SHARE if interpreted else 1)
    drawn = situations(kind, name, INTERPRETED_FRAMES if interpreted else 300)
    settings(max_examples=max(examples, 1))(given(drawn)(check))()


def mask_of(case: Case) -> Tensor:
    """The case's mask, or one that hides nothing."""
    every = torch.ones(case.x.shape[0], case.x.shape[case.dim], dtype=torch.bool)
    return case.keywords.get("mask", every.to(case.x.device))


def bags_of(case: Case | PackedCase) -> list[Tensor]:
    """Each bag's real frames, (classes, frames)."""
    x = case.tensors[0].detach()
    if isinstance(case, PackedCase):
        return [x[first:last].mT for first, last in pairwise(case.offsets.tolist())]
    x = x if case.dim == 2 else x.mT
    return [bag[:, real] for bag, real in zip(x, mask_of(case), strict=True)]


def digits_lost(bag: Tensor) -> float:
    """How much larger than its spread a bag is: the oracle takes differences of its frames, too."""
    if bag.numel() == 0:
        return 1.0
    spread = bag.amax(-1) - bag.amin(-1)
    ratio = bag.abs().amax(-1)[spread > 0] / spread[spread > 0]
    return max([1.0, *ratio.tolist()])


def in_padded_bags(case: Case) -> list[Tensor]:
    """What eager PyTorch gives, each bag's real frames alone."""
    known = ("from_logits", "score_activation")
    keywords = {key: value for key, value in case.keywords.items() if key in known}
    return case.run_function(
        naive_form(case.name, case.dim, **{"from_logits": False, **keywords}, mask=mask_of(case))
    )


def assert_as_exact_as_promised(
    situation: Situation, device: str, eagerly: Callable[[Case | PackedCase], list[Tensor]]
) -> None:
    """The cases' errors together. That eager PyTorch's few numbers are exact by luck is no measure:
    what fails has to fail beside many."""
    try:
        assert_cases_are_exact(situation, situation.cases(device), eagerly)
    except AssertionError:
        assert_cases_are_exact(situation, situation.cases(device, MANY_CASES), eagerly)


def assert_cases_are_exact(
    situation: Situation,
    cases: Iterable[Case | PackedCase],
    eagerly: Callable[[Case | PackedCase], list[Tensor]],
) -> None:
    """Float64 against the oracle, whose own rounding is as large; the others within the budget, of
    tensors that eager PyTorch has finite numbers for."""
    results = []
    lost = 1.0
    for case in cases:
        lost = max([lost, *map(digits_lost, bags_of(case))])
        ours = case.run(functional)
        assert all(tensor.dtype == situation.dtype for tensor in ours)
        results.append((ours, eagerly(case), case.to(torch.float64).run(reference)))
    ours, theirs, truth = map(together, zip(*results, strict=True))
    if situation.dtype == torch.float64:
        # The oracle's quotient loses digits as the sharpness falls.
        relative = 1e-8 if situation.name == "log_mean_exp" else 1e-13 * lost
        scale = max((tensor.abs().max() for tensor in truth if tensor.numel()), default=0)
        for one, true in zip(ours, truth, strict=True):
            assert ((one - true).abs() <= relative * scale).all()
    else:
        known = [index for index, tensor in enumerate(theirs) if tensor.isfinite().all()]
        ours, theirs, truth = ([part[index] for index in known] for part in (ours, theirs, truth))
        assert_errors_within_budget(ours, theirs, truth)


@pytest.mark.parametrize("name", POOLINGS)
def test_errors_stay_within_the_budget(kernel_backend, device, name):
    def check(situation: PaddedPooling) -> None:
        assert_as_exact_as_promised(situation, device, in_padded_bags)

    for_all(PaddedPooling, name, kernel_backend, device, check)


@pytest.mark.parametrize("name", POOLINGS)
def test_packed_errors_stay_within_the_budget(kernel_backend, device, name):
    def check(situation: PackedPooling) -> None:
        naive = naive_packed(name, situation.from_logits)
        assert_as_exact_as_promised(situation, device, lambda case: case.run_function(naive))

    for_all(PackedPooling, name, kernel_backend, device, check)


@pytest.mark.parametrize("name", STATISTICS)
def test_errors_of_statistics_stay_within_the_budget(kernel_backend, device, name):
    def check(situation: Statistics) -> None:
        assert_as_exact_as_promised(situation, device, in_padded_bags)

    for_all(Statistics, name, kernel_backend, device, check)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_no_bag_value_leaves_its_bounds(any_backend, device, name):
    """Between its real frames, of logits and noisy-or in [0, 1]; 0 of none. No gradient is NaN."""

    def check(situation: PaddedPooling) -> None:
        case = next(situation.cases(device))
        y, *gradients = case.run(functional)
        x = case.x if case.dim == 2 else case.x.mT
        real = mask_of(case)[:, None].expand_as(x)
        low, high = torch.zeros_like(y), torch.ones_like(y)
        if name != "noisy_or" and not situation.from_logits and x.shape[-1] > 0:
            low = x.masked_fill(~real, torch.inf).amin(-1)
            high = x.masked_fill(~real, -torch.inf).amax(-1)
        some = real.any(-1)
        assert ((y >= low) & (y <= high))[some].all()
        assert (y[~some] == 0).all()
        assert not any(gradient.isnan().any() for gradient in gradients)

    for_all(PaddedPooling, name, any_backend, device, check)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_every_loss_is_finite(any_backend, device, name):
    def check(situation: PaddedPooling) -> None:
        case = next(situation.cases(device))
        labels = torch.randint(2, (case.x.shape[0], situation.classes)).float().to(device)
        loss, *gradients = run_with_loss(functional, case, labels)
        assert loss.isfinite()
        assert not any(gradient.isnan().any() for gradient in gradients)

    for_all(PaddedPooling, name, any_backend, device, check)
