"""Tensors of the meta device and of FakeTensorMode: shapes and dtypes, as of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, Case, make_case
from loss_cases import labels_of
from loss_cases import run as run_with_loss
from packed_cases import PackedCase, make_packed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import milkernels
from milkernels import compat, functional

Emptying = Callable[[Tensor], Tensor]


@contextmanager
def emptying(kind: str) -> Iterator[Emptying]:
    """What takes a tensor's numbers away, and a block for what is left."""
    if kind == "meta":
        yield lambda tensor: tensor.to("meta")
        return
    backend = "reference" if kind == "fake, by the reference" else "auto"
    with FakeTensorMode() as mode, milkernels.backend(backend):
        yield mode.from_tensor


every_kind = pytest.mark.parametrize("kind", ["meta", "fake", "fake, by the reference"])


def emptied(case: Case, empty: Emptying) -> Case:
    keywords = {
        key: empty(value) if isinstance(value, Tensor) else value
        for key, value in case.keywords.items()
    }
    return Case(case.name, [empty(tensor) for tensor in case.tensors], keywords)


def outline(tensors: list[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


@every_kind
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_give_the_shapes_of_values_and_gradients(name, dim, masked, kind):
    case = make_case(name, 2, 3, 8, dim=dim, masked=masked, dtype=torch.bfloat16)
    expected = outline(case.run(functional))
    with emptying(kind) as empty:
        assert outline(emptied(case, empty).run(functional)) == expected


@every_kind
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_losses_give_the_shapes_of_values_and_gradients(name, dim, reduction, kind):
    case = make_case(name, 2, 3, 8, dim=dim, masked=True, from_logits=True, dtype=torch.float16)
    labels = labels_of(case)
    known = labels > 0.2
    expected = outline(
        run_with_loss(
            functional, case, labels, weight=labels, label_mask=known, reduction=reduction
        )
    )
    with emptying(kind) as empty:
        case, target = emptied(case, empty), empty(labels)
        options = {"weight": target, "label_mask": empty(known), "reduction": reduction}
        assert outline(run_with_loss(functional, case, target, **options)) == expected


@every_kind
@pytest.mark.parametrize("lengths", [(2, 0, 5), ()], ids=["bags", "no bags"])
@pytest.mark.parametrize("name", POOLINGS)
def test_packed_bags_give_the_shapes_of_values_and_gradients(name, lengths, kind):
    case = make_packed(name, lengths, 3)
    expected = outline(case.run(functional))
    with emptying(kind) as empty:
        tensors = [empty(tensor) for tensor in case.tensors]
        shapes = PackedCase(case.name, empty(case.offsets), tensors, case.keywords)
        assert outline(shapes.run(functional)) == expected


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("holes", [False, True], ids=["whole", "with holes"])
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_nested_tensors_bring_their_offsets_without_numbers(device, holes, backend):
    symbols = torch.fx.experimental.symbolic_shapes.ShapeEnv()
    fake = FakeTensorMode(shape_env=symbols) if device == "fake" else torch.device("meta")
    with fake, milkernels.backend(backend):
        values = torch.empty(7, 3, requires_grad=True)
        lengths = torch.zeros(3, dtype=torch.int64) if holes else None
        # Of the scores' bags nobody knows whether they are as long.
        x, scores = (
            torch.nested.nested_tensor_from_jagged(
                one, torch.zeros(4, dtype=torch.int64), lengths, min_seqlen=0, max_seqlen=7
            )
            for one in (values, values.detach())
        )
        y = functional.pool_packed("attention", x, None, scores)
        y.sum().backward()
    assert y.shape == (3, 3)
    assert values.grad.shape == values.shape


@pytest.mark.parametrize("tracing", ["real", "fake"])
def test_what_a_tracer_records_never_takes_packed_bags_for_unknown_ones(tracing):
    """The graph would run on numbers."""
    x, offsets = torch.rand(7, 3), torch.tensor([0, 2, 7])
    if tracing == "real":
        x, offsets = x.to("meta"), offsets.to("meta")
    pool = partial(functional.pool_packed, "mean")
    with (
        milkernels.backend("reference"),
        pytest.raises(RuntimeError, match=r"value out of a tracing tensor|data-dependent"),
    ):
        make_fx(pool, tracing_mode=tracing)(x, offsets)


def test_packed_bags_compile_into_one_graph_without_numbers():
    x, offsets = torch.rand(7, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    compiled = torch.compile(functional.pool_packed, fullgraph=True, backend="aot_eager")
    assert compiled("mean", x, offsets).shape == (3, 3)


POOLED = (2, 3, 8)
MASK = torch.ones(2, 8, dtype=torch.bool)

#: A module, and the shapes or tensors that it takes.
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple]] = {
    **{
        name: (partial(milkernels.nn.build_pooling, name, 3), (POOLED, MASK))
        for name in milkernels.nn.list_poolings()
        if name != "attention"
    },
    "attention": (lambda: milkernels.nn.AttentionPool(6, 3), (POOLED, (2, 8, 6), MASK)),
    "statistics": (lambda: milkernels.nn.AttentionStatsPool(6, 2), ((2, 6, 8), MASK)),
    "GMAP": (lambda: milkernels.nn.GMAP(6, 2, frame_dim=1), ((2, 8, 6), MASK)),
    "fusion": (lambda: milkernels.nn.GatedFusion(6), ((2, 6),)),
    "two steps": (lambda: milkernels.nn.TwoStepAttention(6, 8), ((2, 3, 8, 6),)),
    "two steps, code": (lambda: milkernels.nn.TwoStepAttention(6, 8, "code"), ((2, 3, 8, 6),)),
    "PANNs": (lambda: compat.AttBlock(6, 3), ((2, 6, 8), MASK)),
    "BirdCLEF": (lambda: compat.AttBlockV2(6, 3), ((2, 6, 8), MASK)),
    "SpeechBrain": (lambda: compat.AttentiveStatisticsPooling(6), ((2, 6, 8), torch.ones(2))),
    "deep MIL": (lambda: compat.GatedAttention(6), ((2, 8, 6), MASK)),
    "DESED": (lambda: compat.DESEDHead(6, 3), ((2, 8, 6), ~MASK)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_built_run_and_trained_before_it_has_numbers(name):
    build, given = MODULES[name]
    expected = outputs_and_gradients(build, given, "cpu")
    found = outputs_and_gradients(build, given, "meta")
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert outline(found) == outline(expected)


def outputs_and_gradients(build: Callable[[], nn.Module], given: tuple, device: str):
    with torch.device(device):
        module = build()
        inputs = [
            one.to(device) if isinstance(one, Tensor) else torch.rand(one).requires_grad_()
            for one in given
        ]
        results = module(*inputs)
    results = list(results) if isinstance(results, tuple) else [results]
    sum(result.float().sum() for result in results).backward()
    leaves = (*inputs, *module.parameters())
    return [*results, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_products_of_two_step_attention_are_counted_without_numbers():
    rows, frames, freqs = 2 * 3, 8, 6
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        milkernels.nn.TwoStepAttention(freqs, frames)(torch.rand(2, 3, frames, freqs))
    over_frequency, over_time = rows * frames * freqs**2, rows * frames**2
    # Two layers a step, a product and a sum each.
    assert counter.get_total_flops() == 2 * 2 * (over_frequency + over_time)
