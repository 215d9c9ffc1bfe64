"""Bags of different lengths in one call: each is pooled as if it were alone."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from budget import assert_errors_within_budget
from cases import POOLINGS, SCORED, assert_close
from packed_cases import make_packed, naive_packed
from torch import Tensor

import milkernels
from milkernels import functional, reference
from milkernels.kernels import packed
from milkernels.ops import library


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Triton's programs walk few instances, so that small cases have bags in several chunks."""
    monkeypatch.setattr(packed, "SHORTEST_CHUNK", 32)


@pytest.mark.parametrize(
    ("from_logits", "dtype"),
    [
        (False, torch.float32),
        (True, torch.float32),
        (True, torch.bfloat16),
        (False, torch.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", POOLINGS)
def test_errors_stay_within_twice_eager_pytorchs(kernel_backend, device, name, from_logits, dtype):
    case = make_packed(name, from_logits=from_logits, dtype=dtype, device=device)
    ours = case.run(functional)
    assert all(tensor.dtype == dtype for tensor in ours)
    theirs = case.run_function(naive_packed(name, from_logits))
    assert_errors_within_budget(ours, theirs, case.to(torch.float64).run(reference))


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("name", POOLINGS)
def test_float64_equals_the_oracle(kernel_backend, device, name, from_logits):
    case = make_packed(name, from_logits=from_logits, dtype=torch.float64, device=device)
    assert_close(case.run(functional), case.run(reference), relative=1e-13)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_bag_is_pooled_as_if_it_were_alone(any_backend, device, name):
    case = make_packed(name, (0, 9, 40), device=device)
    y, *_ = case.run(functional)
    pool = getattr(functional, f"{case.name}_pool")
    for bag, (first, last) in enumerate(pairwise(case.offsets.tolist())):
        alone = [t[None, first:last] if t.dim() == 2 else t for t in case.tensors]
        assert torch.allclose(pool(*alone, dim=1, **case.keywords), y[bag : bag + 1], rtol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_packed_and_padded_bags_give_the_same(kernel_backend, device, name):
    case = make_packed(name, (6, 1, 0, 11), from_logits=True, device=device)
    lengths = case.offsets.diff()
    mask = torch.arange(11, device=device) < lengths[:, None]
    padded = [torch.full((4, 11, 5), 0.3, device=device) for t in case.tensors if t.dim() == 2]
    for target, tensor in zip(padded, (t for t in case.tensors if t.dim() == 2), strict=True):
        target[mask] = tensor
    learned = [tensor for tensor in case.tensors if tensor.dim() == 1]
    tensors = [tensor.requires_grad_() for tensor in (*padded, *learned)]
    pool = getattr(functional, f"{case.name}_pool")
    y = pool(*tensors, dim=1, mask=mask, **case.keywords)
    gradients = torch.autograd.grad(y, tensors, case.bag_gradient())
    expected = [g[mask] if g.dim() == 3 else g for g in gradients]
    assert_close(case.run(functional), [y, *expected], relative=2e-6)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("name", POOLINGS)
def test_an_empty_bag_is_0_and_gives_no_gradient(any_backend, device, name, from_logits):
    case = make_packed(name, (0, 0), from_logits=from_logits, device=device)
    y, *gradients = case.run(functional)
    assert y.shape == (2, 5) and (y == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)
    assert gradients[0].shape == (0, 5)


@pytest.mark.parametrize("sizes", [((), 4), ((0, 3, 2), 0)], ids=["no bags", "no classes"])
@pytest.mark.parametrize("name", POOLINGS)
def test_nothing_in_gives_nothing_out_and_is_differentiable(any_backend, device, name, sizes):
    lengths, classes = sizes
    y, *gradients = make_packed(name, lengths, classes, device=device).run(functional)
    assert y.shape == (len(lengths), classes)
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("classes", [1, 17, 130])
@pytest.mark.parametrize("name", POOLINGS)
def test_any_number_of_classes(kernel_backend, device, name, classes):
    if name == "class_attention" and classes == 1:
        return  # y is the mean whatever the scores: the oracle's gradient of them is rounding
    case = make_packed(name, (3, 0, 40, 2), classes, device=device)
    assert_close(case.run(functional), case.to(torch.float64).run(reference), relative=3e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_very_long_bag_beside_short_ones(name):
    lengths = (3, 0, 100_000, 1, *[7] * 50)
    case = make_packed(name, lengths, 3, from_logits=True)
    with milkernels.backend("cpp"):
        ours = case.run(functional)
    assert_close(ours, case.to(torch.float64).run(reference), relative=3e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_number_of_threads_changes_no_bit(name):
    case = make_packed(name, (20_000, *range(200), 90_000, 1), 6)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with milkernels.backend("cpp"):
                results.append(case.run(functional))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", POOLINGS)
def test_a_second_run_gives_the_same_bits(kernel_backend, device, name):
    case = make_packed(name, (17, 0, 3, 40), device=device)
    for first, second in zip(case.run(functional), case.run(functional), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("layout", ["transposed", "every second instance", "every second class"])
@pytest.mark.parametrize("name", POOLINGS)
def test_any_strides_are_right(kernel_backend, device, name, layout):
    case = make_packed(name, (17, 0, 3, 40), device=device)
    truth = case.to(torch.float64).run(reference)

    def laid_out(tensor: Tensor) -> Tensor:
        if layout == "transposed":
            return tensor.t().contiguous().t()
        rows, columns = (2, 1) if layout == "every second instance" else (1, 2)
        wide = tensor.new_empty(rows * tensor.shape[0], columns * tensor.shape[1])
        return wide[::rows, ::columns].copy_(tensor)

    case.tensors = [laid_out(t) if t.dim() == 2 else t for t in case.tensors]
    assert_close(case.run(functional), truth, relative=2e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_nan_stays_in_its_bag_and_class(any_backend, device, name):
    case = make_packed(name, (4, 6, 3), device=device)
    clean_y, clean_gradient, *_ = case.run(functional)
    case.tensors[0][7, 2] = torch.nan
    y, gradient, *_ = case.run(functional)
    elsewhere = torch.ones_like(y, dtype=torch.bool)
    elsewhere[1, 2] = False
    assert y[1, 2].isnan()
    assert torch.equal(y[elsewhere], clean_y[elsewhere])
    spread = elsewhere.repeat_interleave(case.offsets.diff(), 0)
    assert torch.equal(gradient[spread], clean_gradient[spread])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("step", [1, 2])
def test_offsets_may_be_32_bit_and_strided(any_backend, device, dtype, step):
    case = make_packed("max", device=device)
    expected = case.run(functional)
    wide = torch.full((case.offsets.shape[0], step), -1, dtype=dtype, device=device)
    wide[:, 0] = case.offsets
    case.offsets = wide[:, 0]
    assert all(map(torch.equal, case.run(functional), expected))


@pytest.mark.parametrize("name", ["max", "attention", "class_attention", "power", "rank"])
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=["jagged", "strided"])
def test_nested_tensors_bring_their_own_offsets(any_backend, device, name, layout):
    case = make_packed(name, (2, 5, 1), device=device)
    y, x_gradient, *others = case.run(functional)
    x, *rest = [tensor.detach().requires_grad_() for tensor in case.tensors]

    def nested(tensor: Tensor) -> Tensor:
        if layout == torch.jagged:
            return torch.nested.nested_tensor_from_jagged(tensor, case.offsets)
        return torch.nested.as_nested_tensor(list(tensor.split((2, 5, 1))), layout=layout)

    parameters = [nested(tensor) if name in SCORED else tensor for tensor in rest]
    ours = functional.pool_packed(case.name, nested(x), None, *parameters, **case.keywords)
    gradients = torch.autograd.grad(ours, [x, *rest], case.bag_gradient())
    expected = [y, x_gradient, *others]
    assert all(map(torch.equal, [ours, *gradients], expected))


HOSTILE = {
    "position 0": [1, 2, 6],
    "position 1": [0, -1, 6],
    "position 2": [0, 4, 2, 6],
    "6 at position 2": [0, 2, 7],
    "at position 3": [0, 2, 3, 5],
    "shape": [],
    "6 at position 1": [0, 2**62],
    "expected at least": [0, 2**62, 6],
    "position 1, got": [0, -(2**63), 6],
}


@pytest.mark.parametrize("named", HOSTILE, ids=str)
def test_wrong_offsets_are_an_error_that_names_the_position(any_backend, named):
    if torch.cuda.is_available() and any_backend == "triton":
        pytest.skip("on a GPU offsets are clamped")
    offsets = torch.tensor(HOSTILE[named], dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"^offsets: .*{named}"):
        functional.pool_packed("mean", torch.rand(6, 3), offsets)


@pytest.mark.parametrize(
    "offsets", [[0, -1, 6], [0, 4, 2, 6], [0, 7], [0, 2**62, 6], [-(2**63), 6]]
)
@pytest.mark.parametrize("name", POOLINGS)
def test_the_operators_of_the_cpu_check_offsets_in_both_directions(name, offsets):
    (x, good, *rest), options = operator_arguments(name, "cpp", "cpu")
    operators, bad = torch.ops.milkernels, torch.tensor(offsets)
    x = torch.rand(6, 3)
    rest = [
        torch.rand(6, 3) if tensor is not None and tensor.dim() == 2 else tensor for tensor in rest
    ]
    with pytest.raises(ValueError, match=r"^offsets: "):
        operators.packed(x, bad, *rest, *options)
    good = torch.linspace(0, 6, len(offsets)).long()
    y, *saved = operators.packed(x, good, *rest, *options)
    needs = [tensor is not None and tensor.is_floating_point() for tensor in (x, good, *rest)]
    with pytest.raises(ValueError, match=r"^offsets: expected bag \d among the 6 instances"):
        operators.packed_backward(torch.ones_like(y), x, bad, *rest, *saved, needs, *options)


@pytest.mark.parametrize("name", ["power_exp", "max_mean", "noisy_or", "log_mean_exp", "rank"])
def test_unchecked_wrong_offsets_reach_no_other_memory(name):
    """As on a GPU, where offsets are not checked: what lies around the outputs stays as it was."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = make_packed(name, (100,), 3, device=device)
    x, *rest = case.tensors
    offsets = torch.tensor([-70, 40, 30, 2**40, -(2**40), 50, 101, 90], device=device)
    bags, classes = offsets.shape[0] - 1, 3
    parameters = dict.fromkeys(("scores", "power", "alpha", "sharpness"))
    learned = {"power_exp": ("power", "alpha"), "log_mean_exp": ("sharpness",)}
    parameters.update(zip(learned.get(name, ()), rest, strict=False))
    memory = torch.full((3, 2000), 7.0, device=device)

    def inside(row: int, *shape: int) -> Tensor:
        return memory[row, 500 : 500 + math.prod(shape)].view(shape)

    y, statistics, x_gradient = (
        inside(0, bags, classes),
        inside(1, 5, bags, classes),
        inside(2, 100, 3),
    )
    shape = (100, 3) if name == "rank" else (2, bags, classes)
    places = torch.zeros(shape, dtype=torch.int64, device=device)
    options = (name, None, 0.9, True, True)
    triton = library.kernels("triton", "packed")
    triton.forward(x, offsets, *parameters.values(), *options, y, statistics, places)
    of_parameters = [None if tensor is None else tensor.clone() for tensor in parameters.values()]
    triton.backward(
        torch.ones(bags, classes, device=device),
        *(x, offsets, *parameters.values(), statistics, places, *options),
        *(x_gradient, *of_parameters),
    )
    outside = memory.clone()
    for row, size in enumerate((bags * classes, 5 * bags * classes, 300)):
        outside[row, 500 : 500 + size] = 7.0
    assert (outside == 7.0).all()


@pytest.mark.parametrize(
    ("error", "message", "arguments", "keywords"),
    [
        (ValueError, "name: ", ("median",), {}),
        (TypeError, "x: ", ("mean", [1.0]), {}),
        (TypeError, "x: ", ("mean", torch.ones(6, 3, dtype=torch.int64)), {}),
        (ValueError, "x: ", ("mean", torch.ones(2, 3, 3)), {}),
        (TypeError, "offsets: ", ("mean", torch.ones(6, 3), None), {}),
        (TypeError, "offsets: ", ("mean", torch.ones(6, 3), torch.tensor([0.0, 6.0])), {}),
        (ValueError, "offsets: ", ("mean", torch.ones(6, 3), torch.tensor([[0, 6]])), {}),
        (
            ValueError,
            "offsets: ",
            ("mean", torch.ones(6, 3), torch.ones(3, device="meta").long()),
            {},
        ),
        (TypeError, "parameters: ", ("mean", torch.ones(6, 3), torch.tensor([0, 6]), 1.0), {}),
        (TypeError, "power: ", ("power", torch.ones(6, 3), torch.tensor([0, 6])), {}),
        (
            ValueError,
            "power: ",
            ("power", torch.ones(6, 3), torch.tensor([0, 6]), torch.ones(2)),
            {},
        ),
        (TypeError, "mask: ", ("mean", torch.ones(6, 3), torch.tensor([0, 6])), {"mask": None}),
        (ValueError, "decay: ", ("rank", torch.ones(6, 3), torch.tensor([0, 6]), 2.0), {}),
        (
            ValueError,
            "scores: ",
            ("attention", torch.ones(6, 3), torch.tensor([0, 6]), torch.ones(5, 3)),
            {},
        ),
        (
            ValueError,
            "normalize: ",
            ("attention", torch.ones(6, 3), torch.tensor([0, 6]), torch.ones(6, 3)),
            {"normalize": "bags"},
        ),
    ],
)
def test_wrong_arguments_are_named(error, message, arguments, keywords):
    name, x, offsets, *parameters = (*arguments, torch.ones(6, 3), torch.tensor([0, 6]))[:3] + (
        arguments[3:]
    )
    with pytest.raises(error, match=rf"^{message}"):
        functional.pool_packed(name, x, offsets, *parameters, **keywords)


def test_a_nested_tensor_with_offsets_or_other_dimensions_is_refused():
    x = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)], layout=torch.jagged)
    with pytest.raises(ValueError, match=r"^offsets: expected None"):
        functional.pool_packed("mean", x, torch.tensor([0, 2, 6]))
    with pytest.raises(ValueError, match=r"^x: .*ragged dimension last"):
        functional.pool_packed("mean", x.transpose(1, 2))
    scores = torch.nested.nested_tensor([torch.rand(3, 3), torch.rand(3, 3)], layout=torch.jagged)
    with pytest.raises(ValueError, match=r"^scores: "):
        functional.pool_packed("attention", x, None, scores)
    with pytest.raises(TypeError, match=r"^scores: "):
        functional.pool_packed("attention", x, None, torch.rand(6, 3))


def operator_arguments(pooling: str, backend: str, device: str):
    case = make_packed(pooling, (2, 0, 5), 3, device=device)
    x, *rest = case.tensors
    tensors = dict.fromkeys(("scores", "power", "alpha", "sharpness"))
    names = {
        "power": ("power",),
        "auto": ("alpha",),
        "power_exp": ("power", "alpha"),
        "log_mean_exp": ("sharpness",),
    }
    tensors.update(zip(names.get(pooling, ("scores",)), rest, strict=False))
    learn = pooling == "rank" or any(
        tensors[key] is not None for key in ("power", "alpha", "sharpness")
    )
    options = (
        pooling,
        "tanh" if tensors["scores"] is not None else None,
        0.9,
        True,
        learn,
        backend,
    )
    return (x, case.offsets, *tensors.values()), options


@pytest.mark.parametrize("name", POOLINGS)
def test_opcheck_passes(kernel_backend, device, name):
    inputs, options = operator_arguments(name, kernel_backend, device)
    operators = torch.ops.milkernels
    torch.library.opcheck(operators.packed.default, (*inputs, *options))
    y, *saved = operators.packed(*inputs, *options)
    needs = [tensor is not None and tensor.is_floating_point() for tensor in inputs]
    arguments = (torch.ones_like(y), *inputs, *saved, needs, *options)
    torch.library.opcheck(operators.packed_backward.default, arguments)


@pytest.mark.parametrize("name", POOLINGS)
def test_compiles_into_one_graph(name):
    case = make_packed(name, (4, 0, 7))

    def loss(x, offsets, *rest):
        return functional.pool_packed(case.name, 2 * x, offsets, *rest, **case.keywords).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    with milkernels.backend("cpp"):
        for function in (loss, compiled):
            x, *rest = tensors = [tensor.clone().requires_grad_() for tensor in case.tensors]
            function(x, case.offsets, *rest).backward()
            results.append([tensor.grad for tensor in tensors])
    assert all(map(torch.equal, *results))


def test_a_graph_still_checks_the_offsets():
    compiled = torch.compile(
        lambda x, offsets: functional.pool_packed("mean", x, offsets),
        fullgraph=True,
        backend="aot_eager",
    )
    with milkernels.backend("cpp"), pytest.raises(ValueError, match=r"^offsets: .*position 2"):
        compiled(torch.rand(6, 3), torch.tensor([0, 2, 7]))


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_of_gradients_exist(any_backend, device, name):
    case = make_packed(name, (3, 0, 2), 2, from_logits=True, dtype=torch.float64, device=device)
    x, *rest = [tensor.requires_grad_() for tensor in case.tensors]

    def pool(x, *rest):
        return functional.pool_packed(case.name, x, case.offsets, *rest, **case.keywords)

    fast = any_backend == "triton"
    assert torch.autograd.gradcheck(pool, (x, *rest), fast_mode=fast)
    assert torch.autograd.gradgradcheck(pool, (x, *rest), fast_mode=fast)
