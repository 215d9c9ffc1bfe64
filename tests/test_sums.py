"""Sums over the bags: in the first programs of a grid, so that they do not end it alone."""

from dataclasses import replace

import pytest
import torch
from cases import make_case
from packed_cases import make_packed

import milkernels
from milkernels import functional
from milkernels.kernels.launch import Launch

CLASSES = 70


@pytest.mark.parametrize("make", [make_case, make_packed])
@pytest.mark.parametrize("name", ["auto", "power", "power_exp", "log_mean_exp"])
def test_the_first_programs_of_a_backward_launch_sum_the_parameters_gradients(
    monkeypatch, name, make
):
    """Two, of 64 classes each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = ((5, 0, 30), CLASSES) if make is make_packed else (3, CLASSES, 11)
    case = make(name, *sizes, device=device)
    with milkernels.backend("triton"):
        _, _, *whole = case.run(functional)
        run = Launch.run

        def of_two_programs(launch):
            backward = "backward" in launch.kernel.__name__
            run(replace(launch, programs=2) if backward else launch)

        monkeypatch.setattr(Launch, "run", of_two_programs)
        _, _, *first = case.run(functional)
    assert all(torch.equal(one, other) for one, other in zip(first, whole, strict=True))
