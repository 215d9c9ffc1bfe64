"""Bytes that the Triton kernels move, counted load by load in the interpreter."""

import math

import numpy as np
import pytest
import torch

if torch.cuda.is_available():
    pytestmark = pytest.mark.skip(reason="the interpreter counts; here kernels are compiled")

from cases import POOLINGS, PROBABILITIES, make_case
from combinations import every_pair
from interpreted import watch
from statistics_cases import stats_case

import milkernels
from milkernels import functional

BAGS, CLASSES, FRAMES = 2, 5, 1000


class Meter:
    """Elements that were really moved: those whose mask is on, and once where several threads of
    one access ask for them, which memory is not asked for twice."""

    def __init__(self) -> None:
        self.bytes = 0
        self.launches = 0

    def access(self, access) -> None:
        self.bytes += np.unique(access.addresses).size * access.element_bytes

    def launch(self, _) -> None:
        self.launches += 1


@pytest.fixture
def meter():
    meter = Meter()
    with milkernels.backend("triton"), watch(meter.access, meter.launch):
        yield meter


def minimum(case, backward: bool) -> int:
    """Every frame tensor read once, and in the backward pass its gradient written once; the bag
    values besides."""
    element = case.x.element_size()
    frames = sum(math.prod(t.shape) for t in case.tensors if t.dim() == 3)
    bags = BAGS * CLASSES
    mask = case.keywords.get("mask")
    masks = 0 if mask is None else mask.numel()
    if case.name == "rank":
        return minimum_of_ranks(case, backward) + bags * element
    return (frames * (2 if backward else 1) + bags) * element + masks


def minimum_of_ranks(case, backward: bool) -> int:
    """Forward x is read and 16-bit ranks are written; backward those are read, x only for the
    sigmoid's derivative, and x's gradient is written. A program sorts few classes, up to one, and
    reads the mask for them."""
    frames = BAGS * CLASSES * FRAMES
    reads_x = not backward or case.keywords["from_logits"]
    mask = "mask" in case.keywords and not backward
    return frames * (case.x.element_size() * (reads_x + backward) + torch.int16.itemsize + mask)


def usual_launches(case, backward: bool) -> int:
    """One, but that a second joins the parts of bags that several programs share."""
    return 2 if case.name == "class_attention" and not backward else 1


@pytest.mark.parametrize(
    ("dim", "from_logits", "masked", "dtype"),
    every_pair([-1, 1], [False, True], [False, True], [torch.float32, torch.bfloat16]),
    ids=str,
)
@pytest.mark.parametrize("name", POOLINGS)
def test_each_direction_is_one_launch_that_moves_each_byte_once(
    meter, name, dim, from_logits, masked, dtype
):
    options = {"dim": dim, "from_logits": from_logits, "masked": masked, "dtype": dtype}
    case = make_case(name, BAGS, CLASSES, FRAMES, **options)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    y = case.function(functional)(*tensors, **case.keywords)
    assert meter.launches == usual_launches(case, backward=False)
    assert meter.bytes <= 1.02 * minimum(case, backward=False)
    meter.bytes = meter.launches = 0
    torch.autograd.grad(y, tensors, torch.ones_like(y))
    assert meter.launches == usual_launches(case, backward=True)
    assert meter.bytes <= 1.02 * minimum(case, backward=True)


FUSED_WITH_LOSS = [name for name in PROBABILITIES if name not in ("class_attention", "rank")]


def run_with_loss(name, frames, **options):
    """A training step of the pooling with its loss; bytes of its frames and their gradients."""
    case = make_case(name, BAGS, CLASSES, frames, from_logits=True, **options)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    target = torch.rand(BAGS, CLASSES)
    loss = functional.pool_bce(name, tensors[0], target, *tensors[1:], **case.keywords)
    loss.backward()
    return sum(2 * tensor.nbytes for tensor in tensors if tensor.dim() == 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", FUSED_WITH_LOSS)
def test_a_step_with_its_loss_reads_each_frame_once_and_writes_its_gradient_once(
    meter, name, dim, dtype
):
    """One launch for all but the gradient's scale, which reads none of it where it is 1."""
    frames = 250
    moved = run_with_loss(name, frames, dim=dim, dtype=dtype)
    scaled = 2 if name == "attention" else 1
    assert meter.launches == 1 + scaled
    of_cells = 5 * BAGS * CLASSES * torch.float32.itemsize
    assert meter.bytes <= 1.02 * moved + of_cells


@pytest.mark.parametrize("name", ["linear_softmax", "noisy_or", "log_mean_exp", "attention"])
def test_bags_that_no_tile_holds_are_read_once_more(meter, name):
    moved = run_with_loss(name, 3000, dim=1)
    of_cells = 5 * BAGS * CLASSES * torch.float32.itemsize
    assert meter.bytes <= 1.02 * 1.5 * moved + of_cells


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_maximum_with_its_loss_reads_bags_of_any_length_once(meter, dim):
    moved = run_with_loss("max", 3000, dim=dim)
    assert meter.bytes <= 1.02 * moved


@pytest.mark.parametrize("name", ["mean", "max", "max_mean"])
def test_plain_values_whose_gradient_is_linear_are_not_read_again(meter, name):
    case = make_case(name, BAGS, CLASSES, FRAMES)
    x = case.x.requires_grad_()
    y = getattr(functional, f"{name}_pool")(x)
    meter.bytes = 0
    torch.autograd.grad(y.sum(), x)
    assert meter.bytes <= 1.02 * x.numel() * x.element_size()


def test_evaluation_writes_no_ranks(meter):
    case = make_case("rank", BAGS, CLASSES, FRAMES)
    functional.rank_pool(case.x, 0.9)
    assert meter.bytes <= 1.02 * case.x.numel() * case.x.element_size()


def test_evaluation_does_not_gather_what_only_learning_needs(meter):
    case = make_case("power_exp", BAGS, CLASSES, FRAMES)
    with torch.no_grad():
        functional.power_exp_pool(*case.tensors)
    evaluation, meter.bytes = meter.bytes, 0
    functional.power_exp_pool(*(tensor.requires_grad_() for tensor in case.tensors))
    assert evaluation < meter.bytes


@pytest.mark.parametrize(
    ("dim", "masked", "dtype"),
    every_pair([-1, 1], [False, True], [torch.float32, torch.bfloat16]),
    ids=str,
)
@pytest.mark.parametrize("name", ["attention_stats", "weighted_stats"])
def test_statistics_read_the_embeddings_once_in_each_direction(meter, name, dim, masked, dtype):
    channels, heads = 32, 2
    case = stats_case(name, BAGS, channels, FRAMES, heads, dim=dim, masked=masked, dtype=dtype)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    frames = sum(tensor.nbytes for tensor in case.tensors if tensor.dim() == 3)
    frames += BAGS * FRAMES if masked else 0
    y = getattr(functional, f"{name}_pool")(*tensors, **case.keywords)
    assert meter.launches == 1
    assert meter.bytes <= 1.05 * (frames + y.nbytes)
    meter.bytes = meter.launches = 0
    gradients = torch.autograd.grad(y, tensors, torch.ones_like(y))
    assert meter.launches == (2 if name == "attention_stats" else 1)
    written = sum(gradient.nbytes for gradient in gradients)
    assert meter.bytes <= 1.05 * (frames + y.nbytes + written)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_linear_attention_moves_each_row_once_for_each_gradient(meter, monkeypatch, dtype):
    """And neither layer's output. On a small GPU, whose programs' weights are little."""
    from milkernels.kernels import linear_attention  # noqa: PLC0415 - Triton

    monkeypatch.setattr(linear_attention, "_MOST_PARTS", 2)
    monkeypatch.setattr(linear_attention, "_PROGRAMS", 2)
    rows, width = 1536, 16
    shapes = ((rows, width), (width, width), (width,), (width, width), (width,))
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    size, of_rows = leaves[0].nbytes, rows * dtype.itemsize
    total_and_average = rows * 2 * torch.float32.itemsize
    y = functional.linear_attention_pool(*leaves)
    assert meter.launches == 1
    assert meter.bytes <= 1.1 * (size + of_rows + total_and_average)
    meter.bytes = meter.launches = 0
    torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert meter.launches == 3
    assert meter.bytes <= 1.1 * (3 * size + 2 * (of_rows + total_and_average))
