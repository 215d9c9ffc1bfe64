"""Elementary functions of the Triton kernels against float64's."""

import math

import pytest
import torch
import triton
import triton.language as tl
from checked_accesses import checked_backend

from milkernels.kernels import formula
from milkernels.kernels import linear_attention_formula as linear_attention
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


@triton.jit
def _split(x_ptr, near_ptr, rest_ptr):
    place = tl.arange(0, 4096)
    near, rest = linear_attention.operand(tl.load(x_ptr + place), "tf32x3")
    tl.store(near_ptr + place, near)
    tl.store(rest_ptr + place, rest)


def split(x):
    """float32 in the two parts that matrix units multiply."""
    near, rest = torch.empty_like(x), torch.empty_like(x)
    Launch(_split, 1, {"x_ptr": x, "near_ptr": near, "rest_ptr": rest}).run()
    return near, rest


def tf32(x):
    """What matrix units read of float32: 10 bits of its significand."""
    return (x.view(torch.int32) & -0x2000).view(torch.float32)


def test_two_parts_hold_all_digits_of_float32(numbers):
    x = torch.randn(4096, device=numbers.device) * 10 ** torch.linspace(
        -30, 30, 4096, device=numbers.device
    )
    near, rest = split(x)
    assert torch.equal(near, tf32(near))
    assert torch.equal(near + rest, x)
    lost = (tf32(rest) - rest).abs()
    assert (lost <= x.abs() * 2**-22).all()


def added_towards_zero(total, left, right):
    """total + left · right as matrix units add: eight exact products at once, cut to float32."""
    for start in range(0, left.shape[1], 8):
        eight = slice(start, start + 8)
        exact = total.double() + left[:, eight].double() @ right[eight].double()
        rounded = exact.float()
        over = rounded.double().abs() > exact.abs()
        total = torch.where(over, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)
    return total


@pytest.mark.parametrize("make", [torch.randn, torch.rand])
def test_three_products_of_parts_err_no_more_than_float32s(numbers, make):
    """Whose products are added one by one, each sum rounded to the nearest."""
    left = make(64, 64, device=numbers.device)
    right = make(64, 64, device=numbers.device)
    (near, rest), (other_near, other_rest) = (
        [tf32(part).view(64, 64) for part in split(matrix.flatten())] for matrix in (left, right)
    )
    parts = torch.zeros_like(left)
    for one, other in ((rest, other_near), (near, other_rest), (near, other_near)):
        parts = added_towards_zero(parts, one, other)
    single = torch.zeros_like(left)
    for place in range(64):
        product = left[:, place, None].double() * right[None, place].double()
        single = (single.double() + product).float()
    truth, scale = left.double() @ right.double(), left.abs().double() @ right.abs().double()
    ours, theirs = (((found - truth) / scale).abs() for found in (parts, single))
    assert ours.max() <= 1.2 * theirs.max()
    assert ours.square().mean().sqrt() <= 1.8 * theirs.square().mean().sqrt()
