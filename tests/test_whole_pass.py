"""On a CPU a pass is one call of the extension, where its kernels read the tensors as they are; the
operators take the others. Both give the same bits."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import milkernels.functional as F
from milkernels import backends, ops

BAGS, CLASSES, FRAMES = 3, 20, 37
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

pytestmark = pytest.mark.skipif(
    not backends.cpp_serves_cpu(), reason="the C++ extension is not there"
)


def of_classes(dtype):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(CLASSES, dtype=arithmetic)


def average(name):
    """A weighted average in one call of the extension, and by its operators."""

    def whole(x, dim, mask, from_logits, scores=None, power=None, alpha=None):
        return ops.weighted_average_in_one(
            name, x, scores, power, alpha, mask, None, dim, from_logits
        )

    def operators(x, dim, mask, from_logits, scores=None, power=None, alpha=None):
        return ops.weighted_average(
            name, x, scores, power, alpha, mask, None, dim, from_logits, "cpp"
        )

    return whole, operators


def maximum(plus_mean):
    return (
        lambda x, dim, mask, from_logits: ops.maximum_in_one(x, mask, dim, from_logits, plus_mean),
        lambda x, dim, mask, from_logits: ops.maximum(x, mask, dim, from_logits, plus_mean, "cpp"),
    )


def noisy_or():
    return (
        lambda x, dim, mask, from_logits: ops.noisy_or_in_one(x, mask, dim, from_logits),
        lambda x, dim, mask, from_logits: ops.noisy_or(x, mask, dim, from_logits, "cpp"),
    )


def log_mean_exp():
    def whole(x, dim, mask, from_logits, sharpness):
        return ops.log_mean_exp_in_one(x, sharpness, mask, dim, from_logits)

    def operators(x, dim, mask, from_logits, sharpness):
        return ops.log_mean_exp(x, sharpness, mask, dim, from_logits, "cpp")

    return whole, operators


def class_attention(activation):
    def whole(x, dim, mask, from_logits, scores):
        return ops.class_attention_in_one(x, scores, mask, activation, dim, from_logits)

    def operators(x, dim, mask, from_logits, scores):
        return ops.class_attention(x, scores, mask, activation, dim, from_logits, "cpp")

    return whole, operators


def rank(decay):
    return (
        lambda x, dim, mask, from_logits: ops.rank_in_one(x, mask, decay, dim, from_logits),
        lambda x, dim, mask, from_logits: ops.rank(x, mask, decay, dim, from_logits, "cpp"),
    )


POOLINGS = {
    **{
        name: (*average(name), parameters)
        for name, parameters in {
            "mean": (),
            "linear_softmax": (),
            "exp_softmax": (),
            "auto": ("alpha",),
            "power": ("power",),
            "power_exp": ("power", "alpha"),
            "attention": ("scores",),
        }.items()
    },
    "max": (*maximum(False), ()),
    "max_mean": (*maximum(True), ()),
    "noisy_or": (*noisy_or(), ()),
    "log_mean_exp": (*log_mean_exp(), ("sharpness",)),
    "class_attention": (*class_attention("tanh"), ("scores",)),
    "rank": (*rank(0.9), ()),
}


def inputs(name, dim, dtype=torch.float32):
    """x, and what the pooling takes beside it."""
    shape = (BAGS, CLASSES, FRAMES) if dim == 2 else (BAGS, FRAMES, CLASSES)
    torch.manual_seed(0)
    x = torch.rand(shape).to(dtype)
    given = {"scores": torch.randn(shape).to(dtype)}
    given |= {name: of_classes(dtype) for name in ("power", "alpha", "sharpness")}
    return x, {key: given[key] for key in POOLINGS[name][2]}


def value_and_gradients(function, x, arguments, *options):
    leaves = {key: value.clone().requires_grad_() for key, value in arguments.items()}
    x = x.clone().requires_grad_()
    y = function(x, *options, **leaves)
    weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *leaves.values()], weights)]


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", POOLINGS)
def test_it_gives_the_operators_bits(name, dtype, dim, masked, from_logits):
    whole, operators, _ = POOLINGS[name]
    x, arguments = inputs(name, dim, dtype)
    mask = torch.rand(BAGS, FRAMES) < 0.7 if masked else None
    options = (dim, mask, from_logits)
    given = value_and_gradients(whole, x, arguments, *options)
    expected = value_and_gradients(operators, x, arguments, *options)
    for one, other in zip(given, expected, strict=True):
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", POOLINGS)
def test_layouts_that_were_transposed_are_read_as_they_are(name):
    whole, _, _ = POOLINGS[name]
    x, arguments = inputs(name, 1)
    turned = {key: value.mT if value.dim() == 3 else value for key, value in arguments.items()}
    assert torch.equal(whole(x.mT, 2, None, False, **turned), whole(x, 1, None, False, **arguments))


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


X = torch.rand(BAGS, CLASSES, FRAMES)
LEFT_TO_THE_OPERATORS = {
    "every other frame": {"x": X[..., ::2]},
    "every other class": {"x": X[:, ::2]},
    "no bag": {"x": X[:0]},
    "no frame": {"x": X[..., :0]},
    "two dimensions": {"x": X[0]},
    "four dimensions": {"x": X[None]},
    "integers": {"x": X.long()},
    "a meta tensor": {"x": X.to("meta")},
    "a sparse tensor": {"x": X.to_sparse()},
    "a subclass": {"x": X.as_subclass(Marked)},
    "a list": {"x": X.tolist()},
    "a dimension that is no frame axis": {"dim": 0},
    "a dimension that is a bool": {"dim": True},
    "logits that are no bool": {"from_logits": 1},
    "a mask of numbers": {"mask": torch.ones(BAGS, FRAMES)},
    "a mask of other bags": {"mask": torch.ones(BAGS + 1, FRAMES, dtype=torch.bool)},
    "a mask of other frames": {"mask": torch.ones(BAGS, FRAMES - 1, dtype=torch.bool)},
    "a mask of nothing": {"mask": torch.ones(0, dtype=torch.bool)},
    "a mask of no frame": {"mask": torch.ones(BAGS, 0, dtype=torch.bool)},
}


@pytest.mark.parametrize("name", ["mean", "max", "noisy_or"])
@pytest.mark.parametrize("case", LEFT_TO_THE_OPERATORS)
def test_what_its_kernels_cannot_read_is_left_to_the_operators(case, name):
    whole, _, _ = POOLINGS[name]
    arguments = {"x": X, "dim": 2, "mask": None, "from_logits": False}
    assert whole(**arguments) is not None
    assert whole(**{**arguments, **LEFT_TO_THE_OPERATORS[case]}) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("attention", {"scores": X[..., :-1]}),
        ("attention", {"scores": X.double()}),
        ("attention", {"scores": X.mT.contiguous().mT}),
        ("attention", {"scores": torch.rand(0)}),
        ("attention", {"scores": X[..., :0]}),
        ("attention", {}),
        ("power", {"power": torch.rand(CLASSES).double()}),
        ("power", {"power": torch.rand(CLASSES - 1)}),
        ("power", {"power": torch.rand(2 * CLASSES)[::2]}),
        ("power", {"power": torch.rand(0)}),
        ("power", {}),
        ("power", {"power": torch.rand(CLASSES), "alpha": torch.rand(CLASSES)}),
        ("log_mean_exp", {"sharpness": torch.rand(CLASSES - 1)}),
        ("log_mean_exp", {"sharpness": torch.rand(CLASSES).double()}),
        ("class_attention", {"scores": X[..., :-1]}),
        ("class_attention", {"scores": X.mT.contiguous().mT}),
    ],
)
def test_so_are_scores_and_parameters(name, arguments):
    assert POOLINGS[name][0](X, 2, None, False, **arguments) is None


def test_a_profiler_sees_operators():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        F.mean_pool(X)
    assert "milkernels::weighted_average" in {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("name", ["mean", "max", "noisy_or", "rank"])
def test_gradients_are_taken_in_any_layout(name):
    x = X.clone().requires_grad_()
    whole, _, _ = POOLINGS[name]
    weights = torch.rand(CLASSES, BAGS).mT
    (given,) = torch.autograd.grad(whole(x, 2, None, False), [x], weights)
    (expected,) = torch.autograd.grad(whole(x, 2, None, False), [x], weights.contiguous())
    assert torch.equal(given, expected)


@pytest.mark.parametrize("which", ["x", "mask"])
def test_a_change_before_the_backward_pass_is_noticed(which):
    tensors = {"x": X.clone(), "mask": torch.ones(BAGS, FRAMES, dtype=torch.bool)}
    leaf = tensors["x"].requires_grad_()
    y = F.exp_softmax_pool(leaf * 1 if which == "mask" else leaf, mask=tensors["mask"])
    with torch.no_grad():
        tensors[which].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_ranks_of_long_bags_have_32_bits():
    x = torch.rand(1, 2, 40_000)
    whole, operators, _ = POOLINGS["rank"]
    given, expected = (
        value_and_gradients(one, x, {}, 2, None, False) for one in (whole, operators)
    )
    assert all(map(torch.equal, given, expected))


@pytest.mark.parametrize(
    "pooling",
    [
        lambda x: F.log_mean_exp_pool(x, 3.0),
        lambda x: F.attention_pool(x, x, normalize="classes"),
        lambda x: F.rank_pool(x, 0.5),
    ],
)
def test_gradients_of_gradients_are_the_references(pooling):
    x = torch.rand(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(pooling, [x])


def test_only_what_wants_gradients_gets_them():
    power = torch.rand(CLASSES, requires_grad=True)
    F.power_pool(X, power).sum().backward()
    assert X.grad is None
    assert power.grad is not None
    with torch.no_grad():
        assert F.power_pool(X, power).grad_fn is None
    assert F.power_pool(X, power.detach()).grad_fn is None
