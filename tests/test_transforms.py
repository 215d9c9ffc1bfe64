"""Gradients that are differentiated again, and functions transformed by `torch.func`."""

from __future__ import annotations

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, SCORED, make_case
from linear_attention_cases import make_inputs
from loss_cases import arguments_of, labels_of
from packed_cases import make_packed
from statistics_cases import NAMES, stats_case
from torch.func import grad, jacrev, vjp, vmap

import milkernels
from milkernels import functional

FLOAT64 = torch.float64


def pooling(name: str):
    """A function of the case's tensors, and those."""
    case = make_case(name, 2, 3, 5, from_logits=True, dtype=FLOAT64)
    pool = case.function(functional)
    return lambda *tensors: pool(*tensors, **case.keywords), case.tensors


def loss(name: str, reduction: str = "mean"):
    case = make_case(name, 2, 3, 5, from_logits=True, dtype=FLOAT64)
    target = labels_of(case).double()
    named, _, keywords = arguments_of(case)

    def run(x, *params):
        return functional.pool_bce(named, x, target, *params, reduction=reduction, **keywords)

    return run, case.tensors


def packed(name: str):
    case = make_packed(name, (3, 0, 4), 3, from_logits=True, dtype=FLOAT64)

    def pool(x, *rest):
        return functional.pool_packed(case.name, x, case.offsets, *rest, **case.keywords)

    return pool, case.tensors


def statistics(name: str):
    case = stats_case(name, 2, 4, 5, heads=4, dtype=FLOAT64)
    return case.function(functional), case.tensors


def fusion():
    def fused(c, weight, bias):
        return functional.gated_fusion(c, weight, bias)

    return fused, [torch.randn(shape, dtype=FLOAT64) for shape in ((2, 3), (3, 3), (3,))]


def linear_attention():
    return functional.linear_attention_pool, make_inputs(4, 3, dtype=FLOAT64)


OPERATORS = {
    **{name: (pooling, name) for name in POOLINGS},
    **{f"{name} loss": (loss, name) for name in PROBABILITIES},
    **{f"{name} losses": (loss, name, "none") for name in ("power_exp", *SCORED)},
    **{f"packed {name}": (packed, name) for name in ("power_exp", *SCORED)},
    **{name: (statistics, name) for name in NAMES},
    "gated fusion": (fusion,),
    "linear attention": (linear_attention,),
}


def operator(name: str):
    build, *arguments = OPERATORS[name]
    return build(*arguments)


def of_one(tensors: list[torch.Tensor]):
    """A function of one number that every tensor depends on, and each on the one before."""

    def inputs(scale):
        given = [scale * tensors[0]]
        for tensor in tensors[1:]:
            given.append(tensor * (1 + given[-1].mean()) * scale)
        return given

    return inputs, torch.tensor(1.5, dtype=FLOAT64, requires_grad=True)


def assert_first_gradients_agree(function, scale: torch.Tensor) -> None:
    """With `create_graph`, without, and by `torch.func.grad`."""
    (plain,) = torch.autograd.grad(function(scale), scale)
    (recorded,) = torch.autograd.grad(function(scale), scale, create_graph=True)
    torch.testing.assert_close(recorded, plain, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grad(function)(scale.detach()), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.usefixtures("any_backend", "on_device")
def test_inputs_may_depend_on_one_another(name):
    """A gradient that will be differentiated is the gradient."""
    run, tensors = operator(name)
    inputs, scale = of_one(tensors)
    assert_first_gradients_agree(lambda scale: run(*inputs(scale)).square().sum(), scale)


TWICE = {
    "attention": ((2, 3, 5), lambda x: functional.attention_pool(x, x)),
    "class attention": (
        (2, 3, 5),
        lambda x: functional.attention_pool(x, x, normalize="classes"),
    ),
    "statistics": ((2, 3, 5), lambda h: functional.weighted_stats_pool(h, h)),
    "power and alpha": (
        (3,),
        lambda p: functional.power_exp_pool(torch.linspace(0.1, 1, 30).view(2, 3, 5).to(p), p, p),
    ),
    "attention's loss": (
        (2, 3, 5),
        lambda x: functional.pool_bce("attention", x, x.new_ones(2, 3), x),
    ),
    "packed attention": (
        (7, 3),
        lambda x: functional.pool_packed("attention", x, torch.tensor([0, 3, 7]), x),
    ),
    "layers of linear attention": (
        (4, 4),
        lambda w: functional.linear_attention_pool(w[None], w, w[0], w, w[0]),
    ),
}


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("name", TWICE)
def test_one_tensor_may_be_given_twice(any_backend, name):
    shape, run = TWICE[name]
    tensor = torch.rand(shape, dtype=FLOAT64, requires_grad=True)
    assert_first_gradients_agree(lambda tensor: run(tensor).square().sum(), tensor)
    if any_backend != "triton":
        assert torch.autograd.gradgradcheck(lambda tensor: run(tensor).square(), tensor)


@pytest.mark.usefixtures("any_backend", "on_device")
def test_gmap_may_be_differentiated_twice():
    module = milkernels.nn.GMAP(4, heads=2).double()
    h = torch.randn(2, 4, 5, dtype=FLOAT64, requires_grad=True)
    assert_first_gradients_agree(lambda h: module(h).square().sum(), h)


@pytest.mark.parametrize("name", ["power", "power loss", "attention losses"])
def test_a_pulled_gradient_is_differentiable_in_what_it_depends_on(name):
    """`torch.func.vjp` under `grad`, alone and mapped: of the parameter and of the gradient."""
    run, (x, parameter, *_) = operator(name)
    gradient = torch.rand_like(run(x, parameter))

    def norm(parameter, gradient):
        return vjp(lambda x: run(x, parameter), x)[1](gradient)[0].square().sum()

    def norms(parameter, gradient):
        return vmap(norm, in_dims=(None, 0))(parameter, torch.stack([gradient, 2 * gradient])).sum()

    for function in (norm, norms):
        ours = grad(function, (0, 1))(parameter, gradient)
        with milkernels.backend("reference"):
            exact = grad(function, (0, 1))(parameter, gradient)
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["power_exp", "max", "class_attention"])
def test_the_loss_is_pulled_back_and_has_jacobians(name, reduction):
    ours, tensors = loss(name, reduction)
    gradient = torch.rand_like(ours(*tensors))

    def by_reference(*tensors):
        with milkernels.backend("reference"):
            return ours(*tensors)

    for transform in (
        lambda run: vjp(run, *tensors)[1](gradient),
        lambda run: jacrev(run, tuple(range(len(tensors))))(*tensors),
        lambda run: jacrev(jacrev(run))(*tensors),
    ):
        torch.testing.assert_close(transform(ours), transform(by_reference), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, FLOAT64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_vmap_gives_each_entry_its_own_loss_and_gradient(name, reduction, dtype):
    cases = [make_case(name, 2, 3, 8, from_logits=True, dtype=dtype) for _ in range(3)]
    targets = [labels_of(case) for case in cases]
    named, _, keywords = arguments_of(cases[0])

    def run(target, x, *params):
        losses = functional.pool_bce(named, x, target, *params, reduction=reduction, **keywords)
        return 3 * losses.sum()

    entries = [(target, *case.tensors) for target, case in zip(targets, cases, strict=True)]
    stacked = [torch.stack(tensors) for tensors in zip(*entries, strict=True)]
    numbers = tuple(range(1, len(stacked)))
    for function in (run, grad(run, numbers)):
        together = vmap(function)(*stacked)
        apart = [function(*entry) for entry in entries]
        if function is run:
            assert torch.equal(together, torch.stack(apart))
            continue
        for mapped, alone in zip(together, zip(*apart, strict=True), strict=True):
            assert torch.equal(mapped, torch.stack(alone))


def test_gradients_reach_through_mapped_losses():
    """Autograd outside of vmap sees through it, to what is mapped and to what is shared."""
    x = torch.rand(3, 2, 4, 8, requires_grad=True)
    power, target = torch.rand(4, requires_grad=True), torch.rand(3, 2, 4)

    def run(x, target):
        return functional.pool_bce("power", x, target, power, reduction="sum")

    mapped = vmap(run)(x, target).sum()
    whole = run(x.flatten(0, 1), target.flatten(0, 1))
    ours, theirs = (torch.autograd.grad(y, (x, power)) for y in (mapped, whole))
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_gradients_reach_through_vmap():
    x = torch.rand(3, 2, 4, 8, dtype=FLOAT64, requires_grad=True)
    mapped = vmap(functional.linear_softmax_pool)(x)
    whole = functional.linear_softmax_pool(x.flatten(0, 1))
    seconds = []
    for y in (mapped, whole):
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*seconds)


def test_a_differentiable_gradient_after_one_that_was_scaled_in_place():
    run, (x,) = loss("max")
    x.requires_grad_()
    y = 3 * run(x)
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    (again,) = torch.autograd.grad(y, x, create_graph=True)
    assert torch.equal(again, first)
