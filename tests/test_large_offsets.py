"""Elements more than 2^31 apart: addresses are 64-bit, on each backend.

Memory that is not touched costs nothing, so a few elements may lie gigabytes apart. Tensors that
really have so many elements are pooled on request: MILKERNELS_LARGE=1, 24 GB of memory.
"""

import os

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, make_case
from checked_accesses import checked_backend
from linear_attention_cases import make_inputs, pool
from linear_attention_cases import run as run_linear_attention
from loss_cases import run as run_with_loss
from packed_cases import make_packed
from statistics_cases import stats_case

import milkernels
from milkernels import functional

#: Elements between bags and between rows: a product of an index with either leaves 32 bits.
FAR, NEAR = 2**31 + 64, 2**30 + 64


@pytest.fixture(params=["cpp", "triton"])
def backend(request):
    """Without the poison of other tests, which would touch all memory there is."""
    if request.param == "triton" and torch.cuda.is_available():
        pytest.skip("the interpreter reads memory of the CPU")
    with checked_backend(request.param):
        yield


def far_apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, rows and bags of them as far apart as two bags of three rows may be."""
    strides = (FAR, NEAR, 1)[3 - tensor.dim() :]
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    room = torch.empty(last + 1, dtype=tensor.dtype)
    assert room.numel() > 2**31
    return room.as_strided(tensor.shape, strides).copy_(tensor)


def assert_same_far_apart(case, run) -> None:
    expected = run(case)
    case.tensors = [far_apart(tensor) if tensor.dim() > 1 else tensor for tensor in case.tensors]
    for ours, wanted in zip(run(case), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_frames_far_apart(backend, name, dim):
    shape = (2, 5, 3) if dim == 1 else (2, 3, 5)
    case = make_case(name, *shape, dim=dim, dtype=torch.bfloat16)
    assert_same_far_apart(case, lambda case: case.run(functional))


@pytest.mark.parametrize("name", ["mean", "exp_softmax", "max", "noisy_or", "log_mean_exp"])
def test_a_masks_flags_far_apart(backend, name):
    case = make_case(name, 2, 3, 600, masked=True)
    expected = case.run(functional)
    mask = case.keywords["mask"]
    room = torch.empty(700 * NEAR // 128, dtype=torch.bool)
    case.keywords["mask"] = room.as_strided(mask.shape, (1, NEAR // 128)).copy_(mask)
    for ours, wanted in zip(case.run(functional), expected, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_frames_far_apart_with_their_loss(backend, name):
    case = make_case(name, 2, 5, 3, dim=1, from_logits=True, dtype=torch.bfloat16)
    assert_same_far_apart(
        case, lambda case: run_with_loss(functional, case, torch.full((2, 5), 0.25))
    )


@pytest.mark.parametrize("name", POOLINGS)
def test_packed_instances_far_apart(backend, name):
    case = make_packed(name, (1, 0, 2, 1), dtype=torch.bfloat16)
    assert_same_far_apart(case, lambda case: case.run(functional))


@pytest.mark.parametrize("dim", [-1, 1])
def test_embeddings_far_apart(backend, dim):
    shape = (2, 6, 3) if dim == 1 else (2, 3, 5)
    case = stats_case("weighted_stats", *shape, 3, dim=dim, dtype=torch.bfloat16)
    assert_same_far_apart(case, lambda case: case.run(functional))


def test_rows_of_linear_attention_far_apart(backend):
    tensors = make_inputs(16, 4, dtype=torch.bfloat16)
    expected = run_linear_attention(pool, tensors, "paper")
    tensors[0] = far_apart(tensors[0])
    for ours, wanted in zip(run_linear_attention(pool, tensors, "paper"), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.skipif("MILKERNELS_LARGE" not in os.environ, reason="takes 24 GB: MILKERNELS_LARGE=1")
@pytest.mark.parametrize("name", POOLINGS)
def test_more_than_2_to_the_31_elements_and_their_gradient(name):
    """The last bag, which lies beyond 32 bits, is what it is alone."""
    bags, classes, frames = 33, 65, 2**20
    small = make_case(name, 1, classes, frames, dtype=torch.bfloat16)
    with milkernels.backend("cpp"):
        (expected, expected_gradient, *_) = small.run(functional)
        x, *rest = small.tensors
        whole = torch.zeros(bags, classes, frames, dtype=torch.bfloat16)
        assert whole.numel() > 2**31
        whole[-1] = x[0]
        rest = [tensor.expand_as(whole) if tensor.dim() == 3 else tensor for tensor in rest]
        y = small.function(functional)(whole.requires_grad_(), *rest, **small.keywords)
        assert torch.equal(y[-1:], expected)
        (gradient,) = torch.autograd.grad(y, whole, small.bag_gradient().expand_as(y))
        assert torch.equal(gradient[-1:], expected_gradient)
