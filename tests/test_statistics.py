"""Statistics pooling: weighted mean and deviation of embeddings, by a query or by scores."""

from __future__ import annotations

import pytest
import torch
from budget import assert_within_budget, naive_form, truth_of
from cases import HALF_AND_SINGLE, assert_close
from combinations import every_pair
from interpreted import leave_to_the_emulator
from statistics_cases import NAMES, stats_case

import milkernels
from milkernels import functional, reference


@pytest.mark.parametrize(
    ("dim", "dtype", "heads"), every_pair([-1, 1], HALF_AND_SINGLE, [1, 4, 16]), ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_errors_stay_within_twice_eager_pytorchs(kernel_backend, device, name, dim, dtype, heads):
    case = stats_case(name, 4, 16, heads=heads, dim=dim, dtype=dtype, device=device)
    assert_within_budget(case, naive_form(name, dim, False))


@pytest.mark.parametrize("frames", [200, 1000])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_errors_do_not_grow_with_the_bag(kernel_backend, device, name, dim, frames):
    if frames == 1000:
        leave_to_the_emulator(kernel_backend)
    options = {"heads": 4, "dim": dim, "device": device}
    # A query's scores are rounded: of one case luck decides.
    count = 8 if name == "attention_stats" else 1
    case, *more = (stats_case(name, 4, 16, frames, **options) for _ in range(count))
    if name == "weighted_stats":
        for each in (case, *more):
            each.tensors[0] += 5  # A query's scores would grow with it.
    assert_within_budget(case, naive_form(name, dim, False), *more)


@pytest.mark.parametrize(("dim", "heads", "masked"), every_pair([-1, 1], [1, 3, 12], [False, True]))
@pytest.mark.parametrize("name", NAMES)
def test_float64_equals_the_oracle(kernel_backend, device, name, dim, heads, masked):
    options = {"dim": dim, "masked": masked, "dtype": torch.float64, "device": device}
    case = stats_case(name, heads=heads, **options)
    assert_close(case.run(functional), case.run(reference), relative=1e-13)


def test_a_second_run_gives_the_same_bits(kernel_backend, device):
    case = stats_case("attention_stats", 5, device=device)
    first, second = case.run(functional), case.run(functional)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


# What the papers say.


def test_one_head_is_gmaps_single_head_pooling(any_backend, device):
    """Equations 5 to 8: c = [μ, σ]."""
    h = torch.randn(2, 12, 37, dtype=torch.float64, device=device)
    v = torch.randn(12, dtype=torch.float64, device=device)
    weight = torch.softmax(torch.einsum("bdt,d->bt", h, v), 1)[:, None]
    mean = (weight * h).sum(2)
    deviation = ((weight * h * h).sum(2) - mean * mean).sqrt()
    pooled = functional.attention_stats_pool(h, v[None])
    assert torch.allclose(pooled, torch.cat([mean, deviation], 1), rtol=1e-9)


def test_heads_follow_one_another_each_with_mean_and_deviation(any_backend, device):
    """Equation 10: a head is the single-head pooling of its own channels."""
    h = torch.randn(2, 12, 37, dtype=torch.float64, device=device)
    query = torch.randn(3, 4, dtype=torch.float64, device=device)
    apart = [
        functional.attention_stats_pool(part, row[None])
        for part, row in zip(h.split(4, 1), query, strict=True)
    ]
    pooled = functional.attention_stats_pool(h, query)
    assert torch.allclose(pooled, torch.cat(apart, 1), rtol=1e-12)


def test_equal_scores_give_the_plain_mean_and_deviation(any_backend, device):
    h = torch.randn(2, 12, 37, dtype=torch.float64, device=device)
    plain = torch.stack([h.mean(2), h.std(2, correction=0)], 1).unflatten(2, (3, 4))
    expected = plain.transpose(1, 2).flatten(1)
    by_query = functional.attention_stats_pool(h, h.new_zeros(3, 4))
    by_scores = functional.weighted_stats_pool(h, h.new_full((2, 3, 37), 7.0))
    assert torch.allclose(by_query, expected, rtol=1e-12)
    assert torch.allclose(by_scores, expected, rtol=1e-12)


def test_a_query_weighs_as_its_scalar_products_as_scores(any_backend, device):
    case = stats_case("attention_stats", dtype=torch.float64, device=device)
    h, query = case.tensors
    scores = torch.einsum("bhwt,hw->bht", h.unflatten(1, (3, 4)), query)
    by_scores = functional.weighted_stats_pool(h, scores)
    assert torch.allclose(functional.attention_stats_pool(h, query), by_scores, rtol=1e-12)


def test_as_many_heads_as_channels_score_each_channel_by_itself(any_backend, device):
    h, scores = torch.randn(2, 2, 6, 37, dtype=torch.float64, device=device)
    weight = torch.softmax(scores, 2)
    mean = (weight * h).sum(2)
    deviation = (weight * (h - mean[..., None]) ** 2).sum(2).sqrt()
    pooled = functional.weighted_stats_pool(h, scores)
    assert torch.allclose(pooled, torch.stack([mean, deviation], 2).flatten(1), rtol=1e-12)


# What a variance must not lose.


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_small_spread_far_from_0_keeps_three_digits(any_backend, device, dim):
    case = stats_case("weighted_stats", 2, 6, 400, heads=2, dim=dim, device=device)
    h = 5 + 0.01 * case.x
    scores = case.tensors[1]
    first = (slice(None), slice(None), 0) if dim == -1 else (slice(None), 0)
    h[first] = 1e4
    scores[first] = -1e4
    pooled = functional.weighted_stats_pool(h, scores, dim=dim)
    truth = reference.weighted_stats_pool(h.double(), scores.double(), dim=dim)
    assert truth.unflatten(1, (2, 2, 3))[:, :, 1].max() < 0.02
    assert ((pooled - truth) / truth).abs().max() < 1e-3


@pytest.mark.parametrize("frames", [33, 300, 1100])
@pytest.mark.parametrize("dim", [-1, 1])
def test_near_frames_far_from_0_have_their_deviation(kernel_backend, device, dim, frames):
    """The means of a bag's parts are as far apart in what they lost as in themselves."""
    case = stats_case("weighted_stats", 4, 6, frames, heads=2, dim=dim, device=device)
    h = 101.37 * (1 - 1e-3 * torch.rand_like(case.x))
    pooled = functional.weighted_stats_pool(h, case.tensors[1], dim=dim)
    truth = reference.weighted_stats_pool(h.double(), case.tensors[1].double(), dim=dim)
    assert ((pooled - truth) / truth).abs().max() < 1e-6


def test_constant_frames_give_the_floor_and_no_gradient_through_it(any_backend, device):
    h = torch.full((2, 6, 9), 3.0, device=device).requires_grad_()
    query = torch.randn(2, 3, device=device).requires_grad_()
    pooled = functional.attention_stats_pool(h, query, eps=1e-4)
    mean, deviation = pooled.unflatten(1, (2, 2, 3)).unbind(2)
    assert torch.allclose(mean, torch.full_like(mean, 3))
    assert torch.allclose(deviation, torch.full_like(deviation, 1e-2))
    for gradient in torch.autograd.grad(deviation.sum(), (h, query)):
        assert gradient.count_nonzero() == 0


def test_a_floor_of_0_is_allowed(any_backend, device):
    h = torch.full((1, 2, 5), 3.0, device=device).requires_grad_()
    pooled = functional.weighted_stats_pool(h, h.new_zeros(1, 1, 5), eps=0)
    (gradient,) = torch.autograd.grad(pooled.sum(), h)
    assert torch.allclose(gradient, torch.full_like(gradient, 0.2))


# Edge cases.


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_masked_frames_may_hold_nan(any_backend, device, name, dim):
    case = stats_case(name, dim=dim, masked=True, dtype=torch.float64, device=device)
    clean = case.run(functional)
    mask = case.keywords["mask"]
    spoiled = ~(mask[:, :, None] if dim == 1 else mask[:, None, :])
    for index, tensor in enumerate(case.tensors):
        if tensor.dim() == 3:
            case.tensors[index] = tensor.masked_fill(spoiled, float("nan"))
    assert_close(case.run(functional), clean, relative=1e-13)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_bags_without_a_real_frame_give_0_and_gradients_of_0(any_backend, device, name, dim):
    case = stats_case(name, dim=dim, device=device)
    mask = torch.ones(2, 37, dtype=torch.bool, device=device)
    mask[1] = False
    case.keywords["mask"] = mask
    y, to_h, to_other = case.run(functional)
    assert y[1].count_nonzero() == 0
    assert to_h[1].count_nonzero() == 0
    assert y[0].count_nonzero() > 0
    assert all(tensor.isfinite().all() for tensor in (y, to_h, to_other))


def test_scores_of_minus_infinity_take_frames_out(any_backend, device):
    case = stats_case("weighted_stats", heads=1, dtype=torch.float64, device=device)
    h, scores = case.tensors
    scores[:, :, 20:] = -torch.inf
    scores[1] = -torch.inf
    y, to_h, _ = case.run(functional)
    assert torch.allclose(y[0], functional.weighted_stats_pool(h[:, :, :20], scores[:, :, :20])[0])
    assert to_h[0, :, 20:].count_nonzero() == 0
    assert y[1].count_nonzero() == 0
    assert to_h[1].count_nonzero() == 0


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize(("bags", "channels", "frames"), [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_empty_tensors_are_pooled_and_differentiated(
    any_backend, device, name, dim, bags, channels, frames, heads
):
    case = stats_case(name, bags, channels, frames, heads=heads, dim=dim, device=device)
    if name == "weighted_stats" and channels == 0:
        case = stats_case(name, bags, channels, frames, heads=1, dim=dim, device=device)
    y, to_h, to_other = case.run(functional)
    assert y.shape == (bags, 2 * channels)
    assert to_h.shape == case.x.shape
    assert all(tensor.count_nonzero() == 0 for tensor in (y, to_h, to_other))


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_in_its_bag_and_head(any_backend, device, name, dim):
    case = stats_case(name, heads=3, dim=dim, device=device)
    case.x[0, 5 if dim == -1 else 2, 2 if dim == -1 else 5] = float("nan")
    y, to_h, _ = case.run(functional)
    heads = y.unflatten(1, (3, 8))
    assert heads[0, 1].isnan().any()
    heads[0, 1] = 0
    assert heads.isfinite().all()
    by_channel = to_h if dim == -1 else to_h.transpose(1, 2)
    assert by_channel[0, 4:8].isnan().any()
    by_channel[0, 4:8] = 0
    assert by_channel.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_any_strides_give_the_same(any_backend, device, name):
    case = stats_case(name, 3, masked=True, dtype=torch.float64, device=device)
    truth = case.run(reference)
    sparse = torch.randn(3, 12, 2, 37, dtype=torch.float64, device=device)[:, :, 0]
    crossed = case.x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for h in (sparse.copy_(case.x), crossed, case.x.transpose(1, 2).contiguous().transpose(1, 2)):
        case.tensors[0] = h
        assert_close(case.run(functional), truth, relative=1e-13)
    case.tensors[1] = case.tensors[1].mT.contiguous().mT
    assert_close(case.run(functional), truth, relative=1e-13)


def test_a_query_may_have_its_own_dtype(kernel_backend, device):
    case = stats_case("attention_stats", dtype=torch.bfloat16, device=device)
    case.tensors[1] = case.tensors[1].double()
    ours = case.run(functional)
    assert [tensor.dtype for tensor in ours] == [torch.bfloat16, torch.bfloat16, torch.float64]
    assert_close(ours, truth_of(case), relative=1e-2)
    assert_close(ours[2:], truth_of(case)[2:], relative=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=["h", "other", "both"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_gradients_that_are_wanted_are_computed(kernel_backend, device, name, dim, wanted):
    case = stats_case(name, dim=dim, dtype=torch.float64, device=device)
    truth = case.run(reference)[1:]
    tensors = [tensor.detach() for tensor in case.tensors]
    for index in wanted:
        tensors[index].requires_grad_()
    y = getattr(functional, f"{name}_pool")(*tensors, **case.keywords)
    gradients = torch.autograd.grad(y, [tensors[index] for index in wanted], case.bag_gradient())
    assert_close(list(gradients), [truth[index] for index in wanted], relative=1e-13)


# Derivatives and PyTorch's machinery.


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_derivatives(any_backend, device, name, dim):
    case = stats_case(name, 2, 4, 5, 2, dim=dim, masked=True, dtype=torch.float64, device=device)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    pool = getattr(functional, f"{name}_pool")

    def function(*inputs):
        return pool(*inputs, **case.keywords)

    fast = any_backend == "triton"
    assert torch.autograd.gradcheck(function, tensors, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=fast)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck_passes(kernel_backend, device, name, dim):
    case = stats_case(name, dim=1 if dim == 1 else -1, masked=True, device=device)
    h, other = case.tensors
    query, scores = (other, None) if name == "attention_stats" else (None, other)
    inputs = (h, query, scores, case.keywords["mask"])
    options = (1e-7, dim, kernel_backend)
    operators = torch.ops.milkernels
    torch.library.opcheck(operators.statistics.default, (*inputs, *options))
    y, *saved = operators.statistics(*inputs, *options)
    needs = [tensor is not None and tensor.is_floating_point() for tensor in inputs]
    arguments = (torch.ones_like(y), *inputs, *saved, needs, *options)
    torch.library.opcheck(operators.statistics_backward.default, arguments)


def with_second_gradients(case) -> list[torch.Tensor]:
    """Statistics, their gradients, and gradients of these gradients."""
    tensors = [tensor.detach().requires_grad_() for tensor in case.tensors]
    y = case.function(functional)(*tensors, **case.keywords)
    first = torch.autograd.grad(y, tensors, case.bag_gradient(), create_graph=True)
    norm = sum(gradient.square().sum() for gradient in first)
    return [y.detach(), *first, *torch.autograd.grad(norm, tensors)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_no_bit(any_backend, device, name, dtype):
    """Nor one of a gradient, or of a gradient of a gradient."""
    for given in (torch.float32, dtype):
        case = stats_case(name, masked=True, dtype=given, device=device)
        outside = with_second_gradients(case)
        with torch.autocast(device, dtype):
            inside = with_second_gradients(case)
        for one, other in zip(inside, outside, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph(name):
    case = stats_case(name)
    pool = getattr(functional, f"{name}_pool")

    def loss(h, other):
        return pool(2 * h, other).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with milkernels.backend("cpp"):
        results = []
        for function in (loss, compiled):
            tensors = [tensor.clone().requires_grad_() for tensor in case.tensors]
            function(*tensors).backward()
            results.append([tensor.grad for tensor in tensors])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


# Errors.

H = torch.zeros(2, 6, 9)


@pytest.mark.parametrize(
    ("error", "message", "arguments", "keywords"),
    [
        (TypeError, "h: expected a tensor, got list", ([1.0], H[0, :2, :3]), {}),
        (TypeError, "h: expected a float64, float32, bfloat16 or float16", (H.int(), H[0]), {}),
        (ValueError, "h: expected 3 dimensions (batch, channels, frames)", (H[0], H[0]), {}),
        (ValueError, "h: expected 3 dimensions (batch, frames, chan", (H[0], H[0]), {"dim": 1}),
        (ValueError, "dim: expected", (H, torch.zeros(2, 3)), {"dim": 0}),
        (ValueError, "query: expected shape (heads, D / heads)", (H, torch.zeros(2, 4)), {}),
        (ValueError, "query: expected shape (heads, D / heads)", (H, torch.zeros(6)), {}),
        (TypeError, "query: expected a tensor", (H, None), {}),
        (ValueError, "query: expected a tensor on h's", (H, torch.zeros(2, 3, device="meta")), {}),
        (ValueError, "mask: expected shape (2, 9)", (H, torch.zeros(2, 3), H[0] > 0), {}),
        (TypeError, "mask: expected a bool tensor", (H, torch.zeros(2, 3), H[:, 0]), {}),
        (ValueError, "eps: expected a finite number", (H, torch.zeros(2, 3)), {"eps": -1.0}),
        (TypeError, "eps: expected a number", (H, torch.zeros(2, 3)), {"eps": "small"}),
    ],
)
def test_errors_of_the_query_form_name_the_argument(error, message, arguments, keywords):
    with pytest.raises(error) as caught:
        functional.attention_stats_pool(*arguments, **keywords)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message", "scores", "keywords"),
    [
        (ValueError, "scores: expected shape (2, heads, 9)", torch.zeros(2, 4, 9), {}),
        (ValueError, "scores: expected shape (2, heads, 9)", torch.zeros(2, 0, 9), {}),
        (ValueError, "scores: expected shape (2, heads, 9)", torch.zeros(2, 3, 8), {}),
        (ValueError, "scores: expected shape (2, 6, heads)", torch.zeros(2, 3, 9), {"dim": 1}),
        (TypeError, "scores: expected h's dtype", torch.zeros(2, 3, 9).double(), {}),
        (TypeError, "scores: expected a tensor", [0.0], {}),
    ],
)
def test_errors_of_the_scores_form_name_the_argument(error, message, scores, keywords):
    with pytest.raises(error) as caught:
        functional.weighted_stats_pool(H, scores, **keywords)
    assert message in str(caught.value)
