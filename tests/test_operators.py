"""The operators as PyTorch's own machinery sees them."""

from functools import partial

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, WEIGHTED, make_case

import milkernels
from milkernels import functional


def operator_inputs(name: str, backend: str, **options):
    case = make_case(name, 2, 3, 8, **options)
    scores = power = alpha = None
    extra = iter(case.tensors[1:])
    if name in ("power", "power_exp"):
        power = next(extra)
    if name in ("auto", "power_exp"):
        alpha = next(extra)
    if name == "attention":
        scores = next(extra)
    learn = power is not None or alpha is not None
    options = (name, "tanh" if scores is not None else None, case.dim, False, learn, backend)
    return (case.x, scores, power, alpha, case.keywords.get("mask")), options


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", WEIGHTED)
def test_opcheck_passes_for_the_averages(kernel_backend, device, name, dim):
    inputs, options = operator_inputs(name, kernel_backend, dim=dim, masked=True, device=device)
    operators = torch.ops.milkernels
    torch.library.opcheck(operators.weighted_average.default, (*inputs, *options))
    y, statistics = operators.weighted_average(*inputs, *options)
    needs = [tensor is not None and tensor.is_floating_point() for tensor in inputs]
    arguments = (torch.ones_like(y), *inputs, statistics, needs, *options)
    torch.library.opcheck(operators.weighted_average_backward.default, arguments)


@pytest.mark.parametrize("plus_mean", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
def test_opcheck_passes_for_the_maximum(kernel_backend, device, dim, plus_mean):
    inputs = (torch.rand(2, 3, 8, device=device), None)
    check_operators("maximum", inputs, (dim, True, plus_mean, kernel_backend))


@pytest.mark.parametrize("dim", [1, 2])
def test_opcheck_passes_for_noisy_or(kernel_backend, device, dim):
    x = torch.rand(2, 3, 8, device=device)
    mask = torch.rand(2, x.shape[dim], device=device) < 0.7
    check_operators("noisy_or", (x, mask), (dim, False, kernel_backend))


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
def test_opcheck_passes_for_log_mean_exp(kernel_backend, device, dim, learn):
    x = torch.rand(2, 3, 8, device=device)
    sharpness = torch.linspace(-2, 2, x.shape[3 - dim], device=device)
    needs = [True, learn, False]
    inputs = (x, sharpness, None)
    check_operators("log_mean_exp", inputs, (dim, True, learn, kernel_backend), needs)


def check_operators(name: str, inputs: tuple, options: tuple, needs: list[bool] | None = None):
    """opcheck of a family's two operators; unless told, of the first input's gradient."""
    operators = torch.ops.milkernels
    forward = getattr(operators, name)
    torch.library.opcheck(forward.default, (*inputs, *options))
    y, *saved = forward(*inputs, *options)
    needs = needs or [True, *(False for _ in inputs[1:])]
    arguments = (torch.ones_like(y), *inputs, *saved, needs, *options)
    torch.library.opcheck(getattr(operators, f"{name}_backward").default, arguments)


@pytest.mark.parametrize("needs", [[True, True], [True, False], [False, True]], ids=str)
@pytest.mark.parametrize("dim", [1, 2])
def test_opcheck_passes_for_attention_over_classes(kernel_backend, device, dim, needs):
    case = make_case("class_attention", 2, 3, 8, dim=dim, masked=True, device=device)
    inputs = (*case.tensors, case.keywords["mask"])
    check_operators("class_attention", inputs, ("tanh", dim, True, kernel_backend), [*needs, False])


@pytest.mark.parametrize("dim", [1, 2])
def test_opcheck_passes_for_ranks(kernel_backend, device, dim):
    inputs = (torch.rand(2, 3, 8, device=device), None)
    check_operators("rank", inputs, (0.5, dim, True, True, kernel_backend))
    without_ranks = (0.5, dim, True, False, kernel_backend)
    torch.library.opcheck(torch.ops.milkernels.rank.default, (*inputs, *without_ranks))


@pytest.mark.parametrize("name", POOLINGS)
def test_compiles_into_one_graph(name):
    """With the code around it, forward and backward."""
    case = make_case(name, 2, 3, 16, from_logits=True)
    pool = case.function(functional)

    def loss(x, *rest):
        return pool(2 * x, *rest, **case.keywords).square().sum()

    # Each pooling compiles the same lines, of which PyTorch keeps a few forms only.
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with milkernels.backend("cpp"):
        results = []
        for function in (loss, compiled):
            tensors = [tensor.clone().requires_grad_() for tensor in case.tensors]
            function(*tensors).backward()
            results.append([tensor.grad for tensor in tensors])
    for eager, graph in zip(*results, strict=True):
        assert torch.equal(eager, graph)


def test_compiles_with_inductor():
    module = milkernels.nn.PowerPool(3, dim=1, from_logits=True)
    linear = torch.nn.Linear(4, 3)
    model = torch.nn.Sequential(linear, module)
    x = torch.randn(2, 10, 4)
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-6)
    compiled(x).sum().backward()
    assert module.power.grad.isfinite().all()


@pytest.mark.parametrize(
    "twice",
    [
        lambda x: functional.attention_pool(x, x),
        lambda x: functional.pool_bce("attention", x, torch.ones(2, 3), x),
    ],
    ids=["a pooling", "a loss"],
)
def test_one_tensor_may_be_given_twice_in_one_graph(twice):
    x = torch.rand(2, 3, 5, requires_grad=True)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    (expected,) = torch.autograd.grad(twice(x).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", POOLINGS)
def test_dynamic_shapes_do_not_recompile(name):
    """One graph for other bags, classes and frames, with its mask."""
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    case = make_case(name)
    pool = partial(case.function(functional), **case.keywords)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda mask, *tensors: pool(*tensors, mask=mask),
        fullgraph=True,
        dynamic=True,
        backend=counting,
    )
    for bags, classes, frames in ((4, 3, 50), (5, 6, 70), (9, 11, 33)):
        case = make_case(name, bags, classes, frames, masked=True)
        mask = case.keywords["mask"]
        assert torch.equal(compiled(mask, *case.tensors), pool(*case.tensors, mask=mask))
    assert len(graphs) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", milkernels.nn.list_poolings())
def test_autocast_reaches_the_pooling_in_half_precision(any_backend, device, name, dtype):
    """A linear layer's half-precision logits go in; float32 parameters stay as they are."""
    linear = torch.nn.Linear(6, 4).to(device)
    options = {"in_features": 6} if name == "attention" else {}
    pool = milkernels.nn.build_pooling(name, 4, dim=1, from_logits=True, **options).to(device)
    features = torch.randn(3, 20, 6, device=device)
    with torch.autocast(device, dtype):
        x = linear(features)
        y = pool(x, features) if name == "attention" else pool(x)
    assert x.dtype == y.dtype == dtype
    if name in PROBABILITIES:
        torch.nn.functional.binary_cross_entropy(y.float(), torch.ones_like(y).float())
    (y.float() - 1).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (*linear.parameters(), *pool.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", POOLINGS)
def test_autocast_changes_no_bit_of_a_pooling(name, dtype):
    """No input is cast: float32 stays float32, and half precision is computed in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for given in (torch.float32, dtype):
        case = make_case(name, 2, 3, 8, from_logits=True, dtype=given, device=device)
        outside = case.run(functional)
        with torch.autocast(device, dtype):
            inside = case.run(functional)
        for one, other in zip(inside, outside, strict=True):
            assert one.dtype == given
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_default_device_plays_no_part(any_backend, device, name):
    if any_backend == "triton" and device == "cpu":
        pytest.skip("Triton's interpreter makes tensors on the default device")
    case = make_case(name, 2, 3, 8, masked=True, device=device)
    expected = case.run(functional)
    with torch.device("meta"):
        results = case.run(functional)
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", POOLINGS)
def test_vmap_gives_each_entry_its_own_value_and_gradient(name):
    cases = [make_case(name, 2, 3, 8) for _ in range(3)]
    pool, keywords = cases[0].function(functional), cases[0].keywords

    def loss(*tensors):
        return pool(*tensors, **keywords).square().sum()

    stacked = [torch.stack(tensors) for tensors in zip(*(c.tensors for c in cases), strict=True)]
    mapped = torch.func.vmap(torch.func.grad_and_value(loss))(*stacked)
    alone = [torch.func.grad_and_value(loss)(*case.tensors) for case in cases]
    for together, apart in zip(mapped, zip(*alone, strict=True), strict=True):
        assert torch.equal(together, torch.stack(apart))


def test_vmap_hands_gradients_out(kernel_backend, device):
    """Autograd outside of vmap sees through it, to what is mapped and to what is shared."""
    x = torch.rand(3, 2, 4, 8, device=device, requires_grad=True)
    power = torch.rand(4, device=device, requires_grad=True)
    mapped = torch.func.vmap(functional.power_pool, in_dims=(0, None))(x, power)
    whole = functional.power_pool(x.flatten(0, 1), power).view_as(mapped)
    assert torch.equal(mapped, whole)
    ours, theirs = (torch.autograd.grad(y.sum(), (x, power)) for y in (mapped, whole))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["linear_softmax", "max", "noisy_or"])
def test_pulling_gradients_back_later_gives_autograds(name):
    """`torch.func.vjp` asks for gradients when its transform is over, under vmap too."""
    x, gradient = torch.rand(3, 2, 4, 8, requires_grad=True), torch.rand(3, 2, 4)
    pool = getattr(functional, f"{name}_pool")
    expected = torch.stack(
        [
            torch.autograd.grad(pool(one), x, g)[0][i]
            for i, (one, g) in enumerate(zip(x, gradient, strict=True))
        ]
    )
    pulled = [
        torch.func.vjp(pool, one)[1](g)[0] for one, g in zip(x.detach(), gradient, strict=True)
    ]
    assert torch.equal(torch.stack(pulled), expected)
    mapped = torch.func.vmap(lambda one, g: torch.func.vjp(pool, one)[1](g)[0])
    assert torch.equal(mapped(x.detach(), gradient), expected)


def test_gradients_of_gradients_inside_torch_func():
    x = torch.rand(2, 3, 8)

    def norm(x):
        first = torch.func.grad(lambda x: functional.linear_softmax_pool(x).square().sum())
        return first(x).square().sum()

    leaf = x.clone().requires_grad_()
    y = functional.linear_softmax_pool(leaf).square().sum()
    (first,) = torch.autograd.grad(y, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(torch.func.grad(norm)(x), second)
