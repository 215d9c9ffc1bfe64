"""Elementary functions of the Triton kernels against float64's."""

import math

import pytest
import torch
import triton
import triton.language as tl
from interpreted import checked_backend

from milkernels.kernels import formula
from milkernels.kernels.launch import Launch


@triton.jit
def _apply(x_ptr, y_ptr, function: tl.constexpr):
    place = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(y_ptr + place, function(tl.load(x_ptr + place)))


def applied(function, x):
    y = torch.empty_like(x)
    Launch(_apply, len(x) // 1024, {"x_ptr": x, "y_ptr": y, "function": function}).run()
    return y


@pytest.fixture
def numbers():
    """Made where kernels run, from 0 to 1."""
    with checked_backend("triton"):
        yield torch.linspace(0, 1, 2**14, device="cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("function", "truth", "lowest", "highest"),
    [
        (formula.log2, torch.log2, 1e-7, 1.0),
        (formula.log2, torch.log2, 0.9, 1.1),
        (formula.log2, torch.log2, 1.0, 1e30),
        (formula.log2_of_one_plus, lambda x: torch.log1p(x) / math.log(2), 0.0, 1.0),
        (formula.log2_of_one_plus, lambda x: torch.log1p(x) / math.log(2), 0.0, 1e-6),
        (formula.decay, lambda x: torch.exp(-x), 0.0, 1.0),
        (formula.decay, lambda x: torch.exp(-x), 0.0, 87.0),
        (formula.exponential, torch.exp, -87.0, 0.0),
    ],
)
def test_float32_is_right_to_two_roundings(numbers, function, truth, lowest, highest):
    x = lowest + (highest - lowest) * numbers
    expected = truth(x.double())
    error = (applied(function, x).double() - expected).abs()
    assert (error <= 2 * torch.finfo(torch.float32).eps * expected.abs()).all()


def test_decay_of_infinity_is_0_and_nan_stays(numbers):
    x = torch.zeros(1024, device=numbers.device)
    x[0], x[1] = math.inf, math.nan
    y = applied(formula.decay, x)
    assert y[0] == 0
    assert y[1].isnan()
    assert (y[2:] == 1).all()
