"""Pooling and binary cross-entropy in one pass, against the oracle and against two steps."""

from __future__ import annotations

import pytest
import torch
from budget import assert_errors_within_budget, cases_of, together
from cases import ACTIVATIONS, HALF_AND_SINGLE, PROBABILITIES, Case, assert_close, make_case
from loss_cases import arguments_of, in_two_steps, labels_of, run, truth

import milkernels
from milkernels import functional

LAYOUTS = pytest.mark.parametrize("dim", [-1, 1])
EVERY_POOLING = pytest.mark.parametrize("name", PROBABILITIES)


@pytest.mark.parametrize(
    ("dtype", "dim", "from_logits"),
    [
        *((torch.float32, dim, from_logits) for dim in (-1, 1) for from_logits in (False, True)),
        *((torch.bfloat16, -1, True), (torch.bfloat16, 1, False)),
        *((torch.float16, -1, False), (torch.float16, 1, True)),
    ],
    ids=str,
)
@EVERY_POOLING
def test_errors_stay_within_twice_eager_pytorchs(
    kernel_backend, device, name, dim, from_logits, dtype
):
    results = []
    for _ in range(cases_of(kernel_backend, device)):
        case = make_case(name, 4, 16, dim=dim, from_logits=from_logits, dtype=dtype, device=device)
        if from_logits:
            # Where a bag value rounds to 1, how far it was from 1 is a matter of luck.
            case.tensors[0] = case.x / 4
        else:
            # Eager PyTorch's gradients overflow float16 where a bag value rounds to 0 or 1.
            case.tensors[0] = case.x.clamp(2**-10, 1 - 2**-6)
        target = labels_of(case, soft=False)
        ours = run(functional, case, target)
        assert ours[0].dtype == torch.float32
        results.append((ours, in_two_steps(case, target), truth(case, target)))
    assert_errors_within_budget(*map(together, zip(*results, strict=True)))


@pytest.mark.parametrize(
    ("dim", "from_logits", "reduction"),
    [(-1, False, "mean"), (-1, True, "none"), (1, False, "sum"), (1, True, "mean")],
)
@EVERY_POOLING
def test_float64_equals_the_oracle(kernel_backend, device, name, dim, from_logits, reduction):
    """With a mask, soft labels, some of them unknown, and weights."""
    options = {"dim": dim, "from_logits": from_logits, "masked": True, "dtype": torch.float64}
    case = make_case(name, 3, 5, **options, device=device)
    target = labels_of(case).double()
    options = {
        "weight": torch.rand(5, dtype=torch.float64, device=device),
        "label_mask": torch.rand(3, 5, device=device) < 0.7,
        "reduction": reduction,
        "scale": 2.5,
    }
    ours, exact = run(functional, case, target, **options), truth(case, target, **options)
    assert_close(ours, exact, relative=1e-12)


@pytest.mark.parametrize("score_activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["attention", "class_attention"])
def test_scores_have_their_activations(kernel_backend, device, name, score_activation):
    case = make_case(name, 3, 4, score_activation=score_activation, device=device)
    target = labels_of(case)
    assert_close(run(functional, case, target), truth(case, target), relative=1e-5)


LONG = ["power_exp", "max", "noisy_or", "log_mean_exp", "rank"]


def assert_right(case: Case, relative: float = 1e-4) -> None:
    """Of logits whose bag values are not so close to 1 that rounding is all there is."""
    case.tensors[0] = case.x - 6
    target = labels_of(case)
    assert_close(run(functional, case, target), truth(case, target), relative)


@pytest.mark.parametrize("frames", [1, 17, 400, 1100])
@LAYOUTS
@pytest.mark.parametrize("name", LONG)
def test_bags_of_every_length(kernel_backend, device, name, dim, frames):
    assert_right(make_case(name, 2, 3, frames, dim=dim, from_logits=True, device=device))


@pytest.mark.parametrize("frames", [40000, 700000])
@LAYOUTS
@pytest.mark.parametrize("name", [*LONG, "class_attention"])
def test_bags_longer_than_a_cache(name, dim, frames):
    with milkernels.backend("cpp"):
        assert_right(make_case(name, 2, 3, frames, dim=dim, from_logits=True), relative=1e-3)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", LONG)
def test_few_long_bags_are_shared_among_programs(monkeypatch, short_segments, name, dim):
    # No block holds them.
    monkeypatch.setattr("milkernels.kernels.lanes._MOST_WARPS", 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with milkernels.backend("triton"):
        assert_right(make_case(name, 2, 3, 300, dim=dim, from_logits=True, device=device))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16], ids=str)
def test_labels_of_any_dtype(any_backend, device, dtype):
    case = make_case("linear_softmax", from_logits=True, device=device)
    target = labels_of(case, soft=False)
    whole = run(functional, case, target)
    for one, other in zip(whole, run(functional, case, target.to(dtype)), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_label_gives_no_loss_and_no_gradient(any_backend, device):
    case = make_case("power", 3, 4, from_logits=True, device=device)
    target = labels_of(case)
    known = torch.ones(3, 4, dtype=torch.bool, device=device)
    known[1, 2] = False
    target[1, 2] = torch.nan
    loss, x_gradient, _ = run(functional, case, target, label_mask=known, reduction="none", scale=3)
    assert loss[1, 2] == 0
    assert (x_gradient[1, 2] == 0).all()
    assert loss.isfinite().all()
    assert x_gradient[known].ne(0).any(-1).all()


def test_no_known_label_gives_a_loss_of_0(any_backend, device):
    case = make_case("mean", device=device)
    known = torch.zeros_like(labels_of(case), dtype=torch.bool)
    loss, x_gradient = run(functional, case, labels_of(case), label_mask=known)
    assert loss == 0
    assert (x_gradient == 0).all()


@pytest.mark.parametrize("shape", [(), (5,), (1,), (3, 1), (1, 5), (3, 5)], ids=str)
def test_weights_broadcast(kernel_backend, device, shape):
    case = make_case("mean", 3, 5, device=device)
    target, weight = labels_of(case), torch.rand(shape, device=device)
    exact = truth(case, target, weight=weight)
    assert_close(run(functional, case, target, weight=weight), exact, relative=1e-6)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@EVERY_POOLING
def test_every_finite_input_gives_finite_results(any_backend, device, name, dtype):
    """Logits that round to 0 and 1, with both labels."""
    case = make_case(name, 2, 6, 8, from_logits=True, dtype=dtype, device=device)
    logits = torch.tensor([-1e4, -20.0, -3.0, 3.0, 20.0, 1e4], device=device).to(dtype)
    case.tensors[0] = logits[None, :, None].expand(2, 6, 8).clone()
    target = torch.tensor([[0.0], [1.0]], device=device).expand(2, 6)
    results = run(functional, case, target, reduction="sum", scale=0.5)
    assert all(tensor.isfinite().all() for tensor in results)
    if any_backend != "reference":
        assert results[1].abs().max() <= 1


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@EVERY_POOLING
def test_probabilities_of_0_and_1_give_finite_results(any_backend, device, name, dtype):
    case = make_case(name, 2, 2, 8, dtype=dtype, device=device)
    case.tensors[0] = torch.tensor([0.0, 1.0], device=device, dtype=dtype)[None, :, None]
    case.tensors[0] = case.tensors[0].expand(2, 2, 8).clone()
    target = torch.tensor([[0.0], [1.0]], device=device).expand(2, 2)
    loss, *gradients = run(functional, case, target, reduction="none")
    assert loss.tolist() == [[0, 100], [100, 0]]
    assert all(gradient.isfinite().all() for gradient in gradients)


@EVERY_POOLING
def test_a_bag_without_frames_has_the_loss_of_0_and_no_gradient(any_backend, device, name):
    case = make_case(name, 2, 3, masked=True, from_logits=True, device=device)
    case.keywords["mask"][0] = False
    target = torch.zeros(2, 3, device=device)
    loss, x_gradient, *_ = run(functional, case, target, reduction="none")
    assert (loss[0] == 0).all()
    assert (x_gradient[0] == 0).all()
    assert x_gradient[1].ne(0).any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("name", ["exp_softmax", "power_exp", "log_mean_exp"])
def test_empty_tensors_are_differentiable(any_backend, device, name, shape):
    case = make_case(name, *shape, from_logits=True, device=device)
    loss, *gradients = run(functional, case, torch.zeros(shape[:2], device=device))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_nan_stays_in_its_bag_and_class(any_backend, device):
    case = make_case("auto", 2, 3, from_logits=True, device=device)
    case.x[1, 2, 5] = torch.nan
    loss, x_gradient, _ = run(functional, case, labels_of(case), reduction="none")
    spoiled = torch.zeros(2, 3, dtype=torch.bool, device=device)
    spoiled[1, 2] = True
    assert torch.equal(loss.isnan(), spoiled)
    assert not x_gradient[~spoiled].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["linear_softmax", "max", "class_attention"])
def test_it_is_legal_under_autocast(any_backend, device, name, dtype):
    case = make_case(name, 3, 4, dtype=dtype, from_logits=True, device=device)
    target = labels_of(case)
    with torch.autocast(device, dtype):
        ours = run(functional, case, target)
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == dtype
    assert_close(ours, truth(case, target), relative=1e-2)


def test_the_loss_is_of_the_unrounded_bag_value(kernel_backend, device):
    """bfloat16 holds nothing between 1 - 2^-8 and 1."""
    x = torch.full((1, 1, 9), 8.0, dtype=torch.bfloat16, device=device)
    loss = functional.pool_bce("mean", x, torch.zeros(1, 1, device=device))
    assert abs(loss.item() - 8.0003) < 1e-3


@LAYOUTS
@EVERY_POOLING
def test_any_number_of_threads_gives_the_same_bits(name, dim):
    case = make_case(name, 9, 70, 300, dim=dim, from_logits=True)
    target = labels_of(case)
    threads = torch.get_num_threads()
    results = []
    try:
        with milkernels.backend("cpp"):
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(run(functional, case, target))
    finally:
        torch.set_num_threads(threads)
    for tensors in zip(*results, strict=True):
        assert all(torch.equal(tensors[0], other) for other in tensors[1:])


@pytest.mark.parametrize(("dim", "gradients"), [(-1, True), (1, False)])
@EVERY_POOLING
def test_opcheck_passes(kernel_backend, device, name, dim, gradients):
    case = make_case(name, 2, 3, 8, dim=dim, masked=True, from_logits=True, device=device)
    learned = dict.fromkeys(("scores", "alpha", "power", "sharpness"))
    names = {
        "power": ("power",),
        "auto": ("alpha",),
        "power_exp": ("power", "alpha"),
        "attention": ("scores",),
        "class_attention": ("scores",),
        "log_mean_exp": ("sharpness",),
    }.get(name, ())
    learned.update(zip(names, case.tensors[1:], strict=True))
    shape = (case.x.shape[0], case.x.shape[3 - case.dim])
    labels = (torch.rand(shape, device=device), None, torch.rand(shape, device=device) < 0.5)
    options = (name, 0.9, None, "mean", case.dim, True, gradients, kernel_backend)
    arguments = (case.x, *learned.values(), *labels, case.keywords["mask"], *options)
    torch.library.opcheck(torch.ops.milkernels.pool_bce.default, arguments)


@EVERY_POOLING
def test_compiles_into_one_graph(name):
    case = make_case(name, 2, 3, 16, from_logits=True)
    target = labels_of(case)
    pooling, _, keywords = arguments_of(case)

    def loss(x, *rest):
        return 3 * functional.pool_bce(pooling, 2 * x, target, *rest, **keywords)

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with milkernels.backend("cpp"):
        results = []
        for function in (loss, compiled):
            tensors = [tensor.clone().requires_grad_() for tensor in case.tensors]
            function(*tensors).backward()
            results.append([tensor.grad for tensor in tensors])
    for eager_gradient, graph in zip(*results, strict=True):
        assert torch.equal(eager_gradient, graph)


def test_a_mean_and_a_maximum_together_are_no_probability():
    with pytest.raises(ValueError, match=r"name: expected one of .* got 'max_mean'"):
        functional.pool_bce("max_mean", torch.rand(2, 3, 4), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("error", "message", "arguments", "keywords"),
    [
        (ValueError, "name: expected one of 'mean'", ("median",), {}),
        (TypeError, "power: power needs it", ("power",), {}),
        (TypeError, "parameters: mean takes nothing", ("mean", torch.ones(3)), {}),
        (TypeError, "alpha: expected once", ("auto", torch.ones(3)), {"alpha": torch.ones(3)}),
        (TypeError, "normalize: expected a parameter of mean", ("mean",), {"normalize": "classes"}),
        (ValueError, "power: expected shape", ("power", torch.ones(4)), {}),
        (ValueError, "decay: expected a float", ("rank", 2.0), {}),
        (ValueError, "reduction: expected one of", ("mean",), {"reduction": "average"}),
        (ValueError, "weight: expected a shape", ("mean",), {"weight": torch.ones(2)}),
        (TypeError, "weight: expected a float64", ("mean",), {"weight": torch.ones(3).bool()}),
        (TypeError, "label_mask: expected a bool", ("mean",), {"label_mask": torch.ones(2, 3)}),
        (
            ValueError,
            "label_mask: expected shape",
            ("mean",),
            {"label_mask": torch.ones(3, 2).bool()},
        ),
        (ValueError, "mask: expected shape", ("mean",), {"mask": torch.ones(2, 3).bool()}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(error, message, arguments, keywords):
    name, *params = arguments
    with pytest.raises(error, match=message):
        functional.pool_bce(name, torch.rand(2, 3, 4), torch.zeros(2, 3), *params, **keywords)


@pytest.mark.parametrize(
    ("error", "target"),
    [(ValueError, torch.zeros(3, 2)), (TypeError, [0, 1]), (TypeError, torch.zeros(2, 3) * 1j)],
    ids=["shape", "list", "complex"],
)
def test_wrong_labels_are_named(error, target):
    with pytest.raises(error, match="target: expected"):
        functional.pool_bce("mean", torch.rand(2, 3, 4), target)
