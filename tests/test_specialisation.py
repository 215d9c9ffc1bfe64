"""One compilation of a Triton kernel serves batches of all sizes."""

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, make_case
from loss_cases import labels_of
from loss_cases import run as run_with_loss
from packed_cases import make_packed
from statistics_cases import NAMES, stats_case

import milkernels
from milkernels import functional
from milkernels.kernels.compile import Specialisation
from milkernels.kernels.launch import Launch

#: Numbers that Triton tells apart by itself: 1, multiples of 16, and others.
BAGS = (1, 3, 16)

#: The same of bags and of their instances together.
LENGTHS = ((257,), (100, 0, 157), (16,) * 20, (33,) * 16)


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def specialisations(monkeypatch):
    """What the launches of a call, which are not run, would be compiled for."""
    found = []
    monkeypatch.setattr(
        Launch, "run", lambda one: found.append((one.kernel.__name__, Specialisation.of(one)))
    )

    def of(run, *arguments):
        found.clear()
        with milkernels.backend("triton"):
            run(*arguments)
        assert found
        return [*found]

    return of


def all_equal(items):
    first, *others = items
    return all(other == first for other in others)


@pytest.mark.parametrize("name", POOLINGS)
def test_packed_bags_of_any_number_and_length_share_kernels(specialisations, device, name):
    cases = [make_packed(name, lengths, device=device) for lengths in LENGTHS]
    assert all_equal(specialisations(case.run, functional) for case in cases)


@pytest.mark.parametrize("name", POOLINGS)
def test_any_number_of_bags_shares_kernels(specialisations, device, name):
    cases = [make_case(name, bags, device=device) for bags in BAGS]
    assert all_equal(specialisations(case.run, functional) for case in cases)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_any_number_of_bags_share_kernels(specialisations, device, name):
    cases = [stats_case(name, bags, device=device) for bags in BAGS]
    assert all_equal(specialisations(case.run, functional) for case in cases)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_poolings_with_their_loss_share_kernels(specialisations, device, name):
    """All but the loss's own, which are elementwise and wide for multiples of 16."""

    def of(case):
        found = specialisations(run_with_loss, functional, case, labels_of(case))
        return [one for one in found if "cross_entropy" not in one[0]]

    assert all_equal(of(make_case(name, bags, device=device)) for bags in BAGS)
