"""On a CPU a pooling and its loss are one call of the extension, where its kernels read the tensors
as they are; the operators take the others. Both give the same bits."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from milkernels import backends, functional, ops

BAGS, CLASSES, FRAMES = 3, 20, 37

#: The poolings, and what each takes beside x.
POOLINGS = {
    "mean": (),
    "linear_softmax": (),
    "exp_softmax": (),
    "auto": ("alpha",),
    "power": ("power",),
    "power_exp": ("power", "alpha"),
    "attention": ("scores",),
    "max": (),
    "noisy_or": (),
}

pytestmark = pytest.mark.skipif(
    not backends.cpp_serves_cpu(), reason="the C++ extension is not there"
)


def inputs(name, dim=2, dtype=torch.float32):
    """x with what the pooling takes beside it, and labels."""
    torch.manual_seed(0)
    shape = (BAGS, CLASSES, FRAMES) if dim == 2 else (BAGS, FRAMES, CLASSES)
    values = {"x": torch.randn(shape), "scores": torch.randn(shape)}
    values |= {key: torch.rand(CLASSES) for key in ("alpha", "power")}
    given = {key: values[key].to(dtype) for key in ("x", *POOLINGS[name])}
    return given, torch.rand(BAGS, CLASSES).to(dtype)


def in_one(name, given, target, label_mask=None, mask=None, reduction="mean", dim=2):
    tensors = (given.get(key) for key in ("x", "scores", "alpha", "power"))
    return ops.pool_bce_in_one(name, *tensors, target, label_mask, mask, None, reduction, dim, True)


def by_operators(name, given, target, label_mask=None, mask=None, reduction="mean", dim=2):
    tensors = (given.get(key) for key in ("x", "scores", "alpha", "power", "sharpness"))
    labels = (target, None, label_mask, mask)
    return ops.pool_bce(name, *tensors, *labels, 1.0, None, reduction, dim, True, "cpp")


def loss_and_gradients(function, name, given, *others, scale=1, **options):
    leaves = {key: value.clone().requires_grad_() for key, value in given.items()}
    loss = function(name, leaves, *others, **options)
    return [loss.detach(), *torch.autograd.grad(scale * loss, [*leaves.values()])]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", POOLINGS)
def test_it_gives_the_operators_bits(name, dim, masked, reduction):
    given, target = inputs(name, dim)
    masks = (torch.rand(BAGS, CLASSES) < 0.7, torch.rand(BAGS, FRAMES) < 0.7)
    labels = (target, *(masks if masked else (None, None)))
    options = {"reduction": reduction, "dim": dim, "scale": 3}
    one = loss_and_gradients(in_one, name, given, *labels, **options)
    other = loss_and_gradients(by_operators, name, given, *labels, **options)
    for mine, theirs in zip(one, other, strict=True):
        assert (mine.dtype, mine.stride()) == (theirs.dtype, theirs.stride())
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["mean", "power", "noisy_or"])
def test_so_it_does_in_float64(name):
    given, target = inputs(name, dtype=torch.float64)
    one = loss_and_gradients(in_one, name, given, target)
    other = loss_and_gradients(by_operators, name, given, target)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.float64], ids=str)
def test_labels_of_another_dtype_are_read_as_xs(dtype):
    given, target = inputs("mean")
    labels = (target > 0.5).to(dtype)
    assert torch.equal(in_one("mean", given, labels), in_one("mean", given, labels.float()))


X = torch.randn(BAGS, CLASSES, FRAMES)
LABELS = torch.rand(BAGS, CLASSES)
LEFT_TO_THE_OPERATORS = {
    "half precision": {"given": {"x": X.bfloat16()}, "target": LABELS.bfloat16()},
    "every other frame": {"given": {"x": X[..., ::2]}},
    "no frame": {"given": {"x": X[..., :0]}},
    "a parameter that is not there": {"name": "power"},
    "a parameter too many": {"given": {"x": X, "power": torch.ones(CLASSES)}},
    "another family": {"name": "rank"},
    "labels of other bags": {"target": LABELS[:-1]},
    "labels of one class": {"target": LABELS[:, :1]},
    "labels with gaps": {"target": torch.rand(BAGS, 2 * CLASSES)[:, ::2]},
    "complex labels": {"target": LABELS.to(torch.complex64)},
    "labels that are a list": {"target": LABELS.tolist()},
    "no labels": {"target": None},
    "frames that are a list": {"given": {"x": X.tolist()}},
    "no frames": {"given": {}},
    "a parameter that is a number": {"name": "power", "given": {"x": X, "power": 2.0}},
    "a label mask of numbers": {"label_mask": torch.ones(BAGS, CLASSES)},
    "a label mask of other bags": {"label_mask": torch.ones(1, CLASSES, dtype=torch.bool)},
    "a mask of other frames": {"mask": torch.ones(BAGS, FRAMES - 1, dtype=torch.bool)},
    "a loss for each label": {"reduction": "none"},
    "an unknown reduction": {"reduction": "median"},
    "a dimension that is no frame axis": {"dim": 0},
}


@pytest.mark.parametrize("case", LEFT_TO_THE_OPERATORS)
def test_what_its_kernels_cannot_read_is_left_to_the_operators(case):
    arguments = {"name": "mean", "given": {"x": X}, "target": LABELS}
    assert in_one(**arguments) is not None
    assert in_one(**{**arguments, **LEFT_TO_THE_OPERATORS[case]}) is None


def test_a_profiler_sees_operators():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        functional.pool_bce("mean", X, LABELS)
    assert "milkernels::pool_bce" in {event.key for event in seen.key_averages()}


def test_a_second_backward_pass_gives_the_same():
    given, target = inputs("power")
    leaves = [value.clone().requires_grad_() for value in given.values()]
    loss = 3 * in_one("power", dict(zip(given, leaves, strict=True)), target)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, leaves)))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("name", ["mean", "max", "noisy_or"])
def test_the_loss_may_be_changed_in_place(name):
    x = torch.randn(3, 5, 7, requires_grad=True)
    target = torch.rand(3, 5)
    loss = functional.pool_bce(name, x, target)
    loss += 1
    loss /= 2
    (gradient,) = torch.autograd.grad(loss, x)
    (whole,) = torch.autograd.grad(functional.pool_bce(name, x, target), x)
    torch.testing.assert_close(gradient, whole / 2)


def test_gradients_have_gradients():
    given, target = inputs("linear_softmax")
    results = []
    for function in (in_one, by_operators):
        x = given["x"].clone().requires_grad_()
        loss = function("linear_softmax", {"x": x}, target)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    assert torch.equal(*results)


def test_only_what_wants_gradients_gets_them():
    power = torch.rand(CLASSES, requires_grad=True)
    functional.pool_bce("power", X, LABELS, power).backward()
    assert X.grad is None
    assert power.grad is not None
    with torch.no_grad():
        assert functional.pool_bce("power", X, LABELS, power).grad_fn is None
