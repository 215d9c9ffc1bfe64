"""The C++ kernels on random sizes, strides, offsets, masks and numbers of threads.

What they must not touch lies around every tensor: NaN in what they read, a mark in what holds what
they write. `make sanitize` runs many more examples where other memory is watched, too.
"""

import os
import random
from contextlib import suppress
from functools import cache

import pytest
import torch
from cases import ACTIVATIONS, POOLINGS, PROBABILITIES, SCORED, make_case
from linear_attention_cases import make_inputs, pool
from linear_attention_cases import run as run_linear_attention
from loss_cases import labels_of
from loss_cases import run as run_with_loss
from packed_cases import make_packed
from statistics_cases import stats_case

import milkernels
from milkernels import functional

EXAMPLES = int(os.environ.get("MILKERNELS_EXAMPLES", "25"))
#: What another order of sums may change.
TOLERANCES = {
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
    torch.float64: 1e-10,
}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    with milkernels.backend("cpp"):
        yield
    torch.set_num_threads(before)


def size(rng: random.Random, most: int) -> int:
    """Mostly small, with vectors' and tiles' remainders, seldom none."""
    return rng.choice([rng.randrange(4), rng.randrange(40), rng.randrange(most)])


def strided(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """The same values somewhere in a larger tensor: any order of axes, steps and gaps."""
    order = rng.sample(range(tensor.dim()), tensor.dim())
    steps = [rng.choice([1, 1, 1, 2, 3]) for _ in order]
    gaps = [rng.randrange(3) for _ in order]
    axes = list(zip(order, steps, gaps, strict=True))
    shape = [gap + step * tensor.shape[axis] + gap for axis, step, gap in axes]
    room = torch.full(shape, torch.nan if tensor.is_floating_point() else 1).to(tensor.dtype)
    inner = room
    for place, (axis, step, gap) in enumerate(axes):
        inner = inner.narrow(place, gap, step * tensor.shape[axis])
        inner = inner[(slice(None),) * place + (slice(None, None, step),)]
    return inner.permute([order.index(axis) for axis in range(tensor.dim())]).copy_(tensor)


def assert_as_contiguous(rng: random.Random, case, run) -> None:
    """The case on strange strides and several threads is the case."""
    torch.set_num_threads(1)
    expected = run(case)
    case.tensors = [strided(rng, tensor) for tensor in case.tensors]
    if case.keywords.get("mask") is not None:
        case.keywords["mask"] = strided(rng, case.keywords["mask"])
    torch.set_num_threads(rng.randrange(1, 5))
    tolerance = TOLERANCES[case.tensors[0].dtype]
    for ours, wanted in zip(run(case), expected, strict=True):
        scale = wanted.abs().max() if wanted.numel() else 0
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance * float(scale))


def options(rng: random.Random) -> dict[str, object]:
    return {"dim": rng.choice([-1, 1]), "masked": rng.random() < 0.5, "dtype": dtype(rng)}


def dtype(rng: random.Random) -> torch.dtype:
    return rng.choice(dtypes())


@cache
def dtypes() -> list[torch.dtype]:
    """Those that the build has: a sanitizer's may lack some."""
    built = []
    for kind in TOLERANCES:
        with suppress(ValueError):
            functional.mean_pool(torch.zeros(1, 1, 1, dtype=kind))
            built.append(kind)
    return built


def shape(rng: random.Random) -> tuple[int, int, int]:
    long = rng.random() < 0.1
    bags, classes = size(rng, 9), size(rng, 12 if long else 70)
    return bags, classes, rng.randrange(20_000, 40_000) if long else size(rng, 400)


def frame_level(rng: random.Random) -> None:
    name = rng.choice(POOLINGS)
    activation = rng.choice(ACTIVATIONS) if name in SCORED else None
    of_case = {"from_logits": rng.random() < 0.5, "score_activation": activation, **options(rng)}
    bags, classes, frames = shape(rng)
    of_case["masked"] &= frames > 0
    case = make_case(name, bags, classes, frames, **of_case)
    assert_as_contiguous(rng, case, lambda case: case.run(functional))


def with_loss(rng: random.Random) -> None:
    of_case = {"from_logits": rng.random() < 0.5, **options(rng)}
    bags, classes, frames = shape(rng)
    of_case["masked"] &= frames > 0
    case = make_case(rng.choice(PROBABILITIES), bags, classes, frames, **of_case)
    target = labels_of(case)
    reduction = rng.choice(["mean", "sum", "none"])
    assert_as_contiguous(
        rng, case, lambda case: run_with_loss(functional, case, target, reduction=reduction)
    )


def packed_bags(rng: random.Random) -> None:
    lengths = tuple(size(rng, 300) for _ in range(size(rng, 60)))
    if rng.random() < 0.1:
        lengths += (rng.randrange(20_000, 40_000),)
    of_case = {"from_logits": rng.random() < 0.5, "dtype": dtype(rng)}
    case = make_packed(rng.choice(POOLINGS), lengths, size(rng, 70), **of_case)
    assert_as_contiguous(rng, case, lambda case: case.run(functional))


def statistics(rng: random.Random) -> None:
    heads = rng.randrange(1, 5)
    bags, width, frames = size(rng, 6), size(rng, 30), size(rng, 3000)
    of_case = {**options(rng)}
    of_case["masked"] &= frames > 0
    name = rng.choice(["attention_stats", "weighted_stats"])
    case = stats_case(name, bags, heads * max(width, 1), frames, heads, **of_case)
    # A deviation near its floor has no digits that another order of sums would keep.
    case.keywords["eps"] = 1e-2
    assert_as_contiguous(rng, case, lambda case: case.run(functional))


def linear_attention(rng: random.Random) -> None:
    rows, width = size(rng, 2000), 1 + size(rng, 100)
    tensors = make_inputs(width, rows, dtype=dtype(rng))
    variant = rng.choice(["paper", "code"])
    torch.set_num_threads(1)
    expected = run_linear_attention(pool, tensors, variant)
    torch.set_num_threads(rng.randrange(1, 5))
    strange = [strided(rng, tensor) for tensor in tensors]
    tolerance = 4 * TOLERANCES[tensors[0].dtype]
    for ours, wanted in zip(run_linear_attention(pool, strange, variant), expected, strict=True):
        scale = float(wanted.abs().max()) if wanted.numel() else 0
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    "example", [frame_level, with_loss, packed_bags, statistics, linear_attention]
)
def test_random_inputs_on_random_strides_give_what_contiguous_ones_do(example):
    for number in range(EXAMPLES):
        torch.manual_seed(number)
        try:
            example(random.Random(number))
        except Exception as error:
            raise AssertionError(f"example {number}: {error}") from error
