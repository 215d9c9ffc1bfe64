"""Every kernel against the float64 oracle, in every dtype, layout and input kind."""

import pytest
import torch
import triton.language as tl
from budget import assert_within_budget, cases_of, naive_form, together, truth_of
from cases import ACTIVATIONS, HALF_AND_SINGLE, POOLINGS, SCORED, assert_close, make_case
from checked_accesses import checked_backend
from combinations import every_pair
from interpreted import leave_to_the_emulator

from milkernels import functional, reference
from milkernels.kernels import lanes


@pytest.mark.parametrize(
    ("dim", "from_logits", "dtype"), every_pair([-1, 1], [False, True], HALF_AND_SINGLE), ids=str
)
@pytest.mark.parametrize("name", POOLINGS)
def test_errors_stay_within_twice_eager_pytorchs(
    kernel_backend, device, name, dim, from_logits, dtype
):
    case = make_case(name, 4, 16, dim=dim, from_logits=from_logits, dtype=dtype, device=device)
    assert_within_budget(case, naive_form(name, dim, from_logits))


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("frames", [200, 1000])
@pytest.mark.parametrize("name", POOLINGS)
def test_errors_do_not_grow_with_the_bag(kernel_backend, device, name, frames, from_logits):
    if frames == 1000:
        leave_to_the_emulator(kernel_backend)
    options = {"from_logits": from_logits, "device": device}
    count = cases_of(kernel_backend, device)
    case, *more = (make_case(name, 4, 16, frames, **options) for _ in range(count))
    assert_within_budget(case, naive_form(name, -1, from_logits), *more)


def test_a_sigmoid_keeps_its_digits_far_from_0(kernel_backend, device):
    x = torch.linspace(-80, -1, 997, device=device)[None, :, None]
    y = functional.mean_pool(x, from_logits=True)
    relative = y.double() / x[..., 0].double().sigmoid() - 1
    assert relative.abs().max() <= 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("score_activation", ACTIVATIONS)
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", SCORED)
def test_score_activations_are_fused(kernel_backend, device, name, dim, score_activation):
    case = make_case(name, 4, 16, dim=dim, score_activation=score_activation, device=device)
    case.tensors[1] = case.tensors[1] * 6
    naive = naive_form(name, dim, False, score_activation=score_activation)
    assert_within_budget(case, naive)


@pytest.mark.parametrize(
    ("dim", "from_logits", "masked"), every_pair([-1, 1], [False, True], [False, True])
)
@pytest.mark.parametrize("name", POOLINGS)
def test_float64_equals_the_oracle(kernel_backend, device, name, dim, from_logits, masked):
    case = make_case(
        name, dim=dim, from_logits=from_logits, masked=masked, dtype=torch.float64, device=device
    )
    assert_close(case.run(functional), case.run(reference), relative=1e-13)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_masked_frames_count_for_nothing(kernel_backend, device, name, dim, dtype):
    options = {"dim": dim, "masked": True, "dtype": dtype, "device": device}
    cases = [make_case(name, **options) for _ in range(3)]
    ours = together(case.run(functional) for case in cases)
    assert_close(ours, together(map(truth_of, cases)), relative=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dim", "classes", "frames"),
    every_pair([-1, 1], [1, 7, 16, 33], [1, 3, 16, 17, 64, 65, 130]),
)
def test_every_remainder_of_the_vectors_is_right(kernel_backend, device, dim, classes, frames):
    for name in (
        "power_exp",
        "max",
        "attention",
        "max_mean",
        "noisy_or",
        "log_mean_exp",
        "class_attention",
        "rank",
    ):
        if name == "class_attention" and frames == 1:
            continue  # y is x whatever the scores: the oracle's gradient of them is a rounding of 0
        case = make_case(name, 2, classes, frames, dim=dim, device=device)
        assert_close(case.run(functional), truth_of(case), relative=2e-6)


@pytest.mark.parametrize("classes", [260, 527])
def test_more_classes_than_a_task_takes_at_once(kernel_backend, device, classes):
    for name in ("auto", "max", "max_mean", "noisy_or", "log_mean_exp", "class_attention", "rank"):
        case = make_case(name, 1, classes, 6, dim=1, device=device)
        assert_close(case.run(functional), truth_of(case), relative=1e-6)


def test_parameters_may_have_their_own_dtype(kernel_backend, device):
    case = make_case("power_exp", dtype=torch.bfloat16, device=device)
    case.tensors[1:] = [tensor.double() for tensor in case.tensors[1:]]
    ours = case.run(functional)
    assert [tensor.dtype for tensor in ours[2:]] == [torch.float64, torch.float64]
    assert_close(ours, truth_of(case), relative=1e-2)
    assert_close(ours[2:], truth_of(case)[2:], relative=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a GPU's compiler there is one")
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_a_blocks_axes_changes_nothing(monkeypatch, name, dim):
    """It follows Triton's release, and so does where a thread's chunks are."""
    case = make_case(name, 2, 5, 50, dim=dim, masked=True)
    with checked_backend("triton"):
        expected = case.run(functional)
        monkeypatch.setattr(lanes, "CHUNKS_FIRST", tl.constexpr(not lanes.CHUNKS_FIRST.value))
        found = case.run(functional)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
