"""What leaves a pooling as it is, and which poolings are the same: identities, not numbers.

Others have their place beside what they are about: one head and packed bags (test_statistics,
test_packed), ranks and sharpness at their ends, repetition and threads.
"""

from itertools import pairwise

import pytest
import torch
from cases import POOLINGS, Case, assert_close, make_case

from milkernels import functional

FRAMES = 19
FLOAT64 = torch.float64


def run_with_frames(case: Case, chosen: torch.Tensor) -> list[torch.Tensor]:
    """Results of the chosen frames alone, in their order."""
    tensors = [tensor[..., chosen] if tensor.dim() == 3 else tensor for tensor in case.tensors]
    return Case(case.name, tensors, {**case.keywords, "mask": None}).run(functional)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_frames_changes_nothing(any_backend, device, name):
    case = make_case(name, 2, 3, FRAMES, from_logits=True, dtype=FLOAT64, device=device)
    order = torch.randperm(FRAMES, device=device)
    shuffled = run_with_frames(case, order)
    expected = [t[..., order] if t.dim() == 3 else t for t in case.run(functional)]
    assert_close(shuffled, expected, relative=1e-12)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_masked_frame_is_one_that_is_not_there(any_backend, device, name):
    case = make_case(name, 2, 3, FRAMES, from_logits=True, dtype=FLOAT64, device=device)
    real = torch.rand(FRAMES, device=device) < 0.6
    case.keywords["mask"] = real.expand(2, FRAMES)
    masked = case.run(functional)
    assert all((t[..., ~real] == 0).all() for t in masked[1:] if t.dim() == 3)
    kept = [t[..., real] if t.dim() == 3 else t for t in masked]
    assert_close(kept, run_with_frames(case, real), relative=1e-12)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize(
    ("name", "parameters", "same"),
    [
        ("power", (1.0,), "linear_softmax"),
        ("power", (0.0,), "mean"),
        ("auto", (0.0,), "mean"),
        ("auto", (1.0,), "exp_softmax"),
        ("power_exp", (1.0, 0.0), "linear_softmax"),
        ("power_exp", (0.0, 1.0), "exp_softmax"),
    ],
)
def test_a_pooling_contains_another(any_backend, device, name, parameters, same, from_logits):
    """Its value and its gradient of the frames."""
    case = make_case(same, 2, 3, FRAMES, from_logits=from_logits, dtype=FLOAT64, device=device)
    learned = [torch.full((3,), value, dtype=FLOAT64, device=device) for value in parameters]
    wider = Case(name, [case.x, *learned], case.keywords)
    assert_close(wider.run(functional)[:2], case.run(functional), relative=1e-12)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
def test_a_growing_power_goes_from_the_mean_to_the_maximum(any_backend, device, from_logits):
    case = make_case("mean", 1, 3, FRAMES, from_logits=from_logits, device=device)
    mean, *between, last = [
        functional.power_pool(case.x, torch.full((3,), power, device=device), **case.keywords)
        for power in (0.0, 1.0, 16.0, 1e4)
    ]
    assert torch.allclose(mean, functional.mean_pool(case.x, **case.keywords))
    assert all((after > before).all() for before, after in pairwise([mean, *between]))
    assert torch.allclose(last, functional.max_pool(case.x, **case.keywords), rtol=1e-3)
