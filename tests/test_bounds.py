"""Every address that the Triton kernels load from or store to is an element of their tensors."""

import pytest
import torch

if torch.cuda.is_available():
    pytestmark = pytest.mark.skip(reason="the interpreter checks; here kernels are compiled")

import triton
import triton.language as tl
from cases import POOLINGS, PROBABILITIES, make_case
from combinations import every_pair
from interpreted import bounds_checked
from test_gated_fusion import fusion_case
from test_layouts import VIEWS
from test_linear_attention import make_inputs, pool, run
from test_packed import make_packed
from test_pool_bce import labels_of
from test_pool_bce import run as run_with_loss
from test_statistics import stats_case

import milkernels
from milkernels import functional
from milkernels.kernels import packed, rank, tiles
from milkernels.kernels.launch import Launch

#: (bags, classes, frames): one of each, more of each than a tile, and remainders.
SHAPES = [(1, 1, 1), (3, 5, 37), (2, 70, 3), (1, 3, 150)]
LAYOUTS = ["plain", "every second frame", "every second class", "inside a larger tensor"]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.fixture
def bounds(monkeypatch):
    """Short segments and chunks, so that small cases are cut and joined."""
    monkeypatch.setattr(tiles, "SEGMENT_FRAMES", 64)
    monkeypatch.setattr(rank, "SORTED_FRAMES", 64)
    monkeypatch.setattr(packed, "SHORTEST_CHUNK", 32)
    with milkernels.backend("triton"), bounds_checked() as bounds:
        yield bounds
    assert bounds.checked > 0


def lay_out(case, layout):
    view = VIEWS.get(layout, torch.Tensor.contiguous)
    case.tensors = [view(tensor) if tensor.dim() == 3 else tensor for tensor in case.tensors]


@pytest.mark.parametrize(
    ("shape", "dim", "masked", "layout", "from_logits", "dtype"),
    every_pair(SHAPES, [-1, 1], [False, True], LAYOUTS, [False, True], DTYPES),
    ids=str,
)
def test_frame_level_poolings_touch_their_own_elements_alone(
    bounds, shape, dim, masked, layout, from_logits, dtype
):
    for name in POOLINGS:
        options = {"dim": dim, "masked": masked, "from_logits": from_logits, "dtype": dtype}
        case = make_case(name, *shape, **options)
        lay_out(case, layout)
        case.run(functional)


@pytest.mark.parametrize(
    ("shape", "dim", "masked", "layout", "dtype"),
    every_pair(SHAPES[1:], [-1, 1], [False, True], LAYOUTS, DTYPES[:2]),
    ids=str,
)
def test_losses_touch_their_own_elements_alone(bounds, shape, dim, masked, layout, dtype):
    for name in PROBABILITIES:
        options = {"dim": dim, "masked": masked, "from_logits": True, "dtype": dtype}
        case = make_case(name, *shape, **options)
        lay_out(case, layout)
        run_with_loss(functional, case, labels_of(case))


@pytest.mark.parametrize("lengths", [(1,), (0, 3, 0), (5, 0, 70, 1, 0, 33, 0)], ids=str)
@pytest.mark.parametrize("classes", [1, 5, 67])
def test_packed_bags_touch_their_own_elements_alone(bounds, lengths, classes):
    for name in POOLINGS:
        make_packed(name, lengths, classes).run(functional)


@pytest.mark.parametrize(
    ("shape", "dim", "masked", "layout"),
    every_pair([(1, 6, 1), (2, 12, 37), (1, 66, 150)], [-1, 1], [False, True], LAYOUTS),
    ids=str,
)
@pytest.mark.parametrize("name", ["attention_stats", "weighted_stats"])
def test_statistics_touch_their_own_elements_alone(bounds, name, shape, dim, masked, layout):
    case = stats_case(name, *shape, dim=dim, masked=masked)
    lay_out(case, layout)
    case.run(functional)


@pytest.mark.parametrize(("width", "rows"), [(1, 1), (5, 33), (16, 70), (65, 3)])
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_linear_attention_touches_its_own_elements_alone(bounds, variant, width, rows):
    run(pool, make_inputs(width, rows), variant)


@pytest.mark.parametrize("width", [1, 5, 130])
def test_gated_fusion_touches_its_own_elements_alone(bounds, width):
    fusion_case(width=width).run(functional)


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
    with bounds_checked(), pytest.raises(Exception, match=r"_copy: 1 of \d+ addresses are no"):
        Launch(_copy, 1, arguments).run()


def test_gaps_between_elements_are_outside():
    memory = torch.zeros(64)
    arguments = {"from_ptr": memory[:16:2], "to_ptr": memory[32:40], "count": 8, "first": 0}
    with bounds_checked(), pytest.raises(Exception, match="_copy: 4 of 8 addresses are no"):
        Launch(_copy, 1, {**arguments, "BLOCK": 16}).run()
