"""Every address that the Triton kernels load from or store to is an element of their tensors.

All tests that run Triton in the interpreter check it. Here are shapes that no other test has, and
kernels that are caught.
"""

import pytest
import torch

if torch.cuda.is_available():
    pytestmark = pytest.mark.skip(reason="the interpreter checks; here kernels are compiled")

import triton
import triton.language as tl
from cases import POOLINGS, PROBABILITIES, make_case
from checked_accesses import checked_accesses
from loss_cases import labels_of
from loss_cases import run as run_with_loss
from packed_cases import make_packed
from statistics_cases import stats_case
from test_layouts import VIEWS

import milkernels
from milkernels import functional
from milkernels.kernels import packed, rank
from milkernels.kernels.launch import Launch


@pytest.fixture
def bounds(monkeypatch, short_segments):
    """Small cases are cut and joined."""
    monkeypatch.setattr(rank, "SORTED_FRAMES", 64)
    monkeypatch.setattr(packed, "SHORTEST_CHUNK", 32)
    with milkernels.backend("triton"), checked_accesses() as bounds:
        yield bounds
    assert bounds.checked > 0


def lay_out(case, layout):
    view = VIEWS[layout]
    case.tensors = [view(tensor) if tensor.dim() == 3 else tensor for tensor in case.tensors]


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_of_odd_shapes_touch_their_own_elements_alone(bounds, name, dim):
    case = make_case(name, 2, 19, 67, dim=dim, masked=True)
    case.run(functional)
    lay_out(case, "every second class")
    case.run(functional)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_losses_of_odd_shapes_touch_their_own_elements_alone(bounds, name, dim):
    case = make_case(name, 2, 19, 53, dim=dim, masked=True, from_logits=True)
    lay_out(case, "every second class")
    run_with_loss(functional, case, labels_of(case))


@pytest.mark.parametrize("name", POOLINGS)
def test_packed_bags_touch_their_own_elements_alone(bounds, name):
    make_packed(name, (5, 0, 70, 1, 0, 33, 0), 19).run(functional)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", ["attention_stats", "weighted_stats"])
def test_statistics_touch_their_own_elements_alone(bounds, name, dim):
    case = stats_case(name, 2, 66, 53, dim=dim, masked=True)
    lay_out(case, "every second class")
    case.run(functional)


@triton.jit
def _copy(from_ptr, to_ptr, count, first, BLOCK: tl.constexpr):
    index = first + tl.arange(0, BLOCK)
    value = tl.load(from_ptr + index, mask=index < 8, other=0.0)
    tl.store(to_ptr + index, value, mask=index < count)


@pytest.mark.parametrize(
    ("length", "count", "first"),
    [(7, 7, 0), (8, 9, 0), (8, 8, -1)],
    ids=["load past the end", "store past the end", "load before the beginning"],
)
def test_a_kernel_that_leaves_its_tensors_is_caught(length, count, first):
    """The memory around is there, and another tensor's."""
    memory = torch.zeros(64)
    source, target = memory[8 : 8 + length], memory[40:48]
    arguments = {"from_ptr": source, "to_ptr": target, "count": count, "first": first, "BLOCK": 16}
    with checked_accesses(), pytest.raises(Exception, match=r"_copy: 1 of \d+ addresses are no"):
        Launch(_copy, 1, arguments).run()


def test_gaps_between_elements_are_outside():
    memory = torch.zeros(64)
    arguments = {"from_ptr": memory[:16:2], "to_ptr": memory[32:40], "count": 8, "first": 0}
    with checked_accesses(), pytest.raises(Exception, match="_copy: 4 of 8 addresses are no"):
        Launch(_copy, 1, {**arguments, "BLOCK": 16}).run()
