"""The weights behind a pooling."""

import re

import pytest
import torch
from cases import POOLINGS, make_case

import milkernels
from milkernels import functional

AVERAGES = tuple(name for name in POOLINGS if name not in ("max_mean", "noisy_or", "log_mean_exp"))


def weights_of(case) -> torch.Tensor:
    name = "attention" if case.name == "class_attention" else case.name
    return functional.frame_weights(name, *case.tensors, **case.keywords)


@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_real_frames_share_one_whole_and_masked_frames_get_nothing(name, dim, from_logits):
    case = make_case(name, dim=dim, from_logits=from_logits, masked=True)
    mask = case.keywords["mask"]
    case.x.masked_fill_(~mask[:, :, None] if dim == 1 else ~mask[:, None, :], torch.nan)
    weights = weights_of(case)
    assert weights.shape == case.x.shape
    assert weights.dtype == case.x.dtype
    assert (weights >= 0).all()
    by_frame = weights.movedim(dim, -1)
    assert torch.allclose(by_frame.sum(-1), torch.ones(2, 5))
    assert (by_frame[~mask[:, None].expand_as(by_frame)] == 0).all()


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_its_weights_times_its_frames(name, dim):
    case = make_case(name, dim=dim, from_logits=True, dtype=torch.float64)
    y = case.run(functional)[0]
    assert torch.allclose((weights_of(case) * case.x.sigmoid()).sum(dim), y)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_empty_bag_has_no_weights(name):
    case = make_case(name, masked=True)
    case.keywords["mask"][0] = False
    assert (weights_of(case)[0] == 0).all()


def test_the_maximum_gives_all_to_the_first_of_equals():
    x = torch.tensor([[[0.2, 0.9, 0.9, 0.1]]])
    assert functional.frame_weights("max", x).tolist() == [[[0, 1, 0, 0]]]
    shares = functional.frame_weights("max_mean", x)
    assert torch.allclose(shares, torch.tensor([[[0.125, 0.625, 0.125, 0.125]]]))


def test_noisy_or_shares_the_evidence():
    """1 - y is the product of the frames' 1 - x, so their logarithms add up."""
    x = torch.tensor([[[0.5, 0.75, 0.0]]])
    expected = torch.tensor([[[1 / 3, 2 / 3, 0.0]]])
    assert torch.allclose(functional.frame_weights("noisy_or", x), expected)
    sure = torch.tensor([[[1.0, 0.3, 1.0]]])
    assert functional.frame_weights("noisy_or", sure).tolist() == [[[0.5, 0, 0.5]]]
    nothing = torch.zeros(1, 1, 4)
    assert functional.frame_weights("noisy_or", nothing).tolist() == [[[0.25] * 4]]


def test_weights_are_differentiable():
    case = make_case("attention", dtype=torch.float64)
    x, scores = case.x, case.tensors[1].requires_grad_()
    (functional.frame_weights("attention", x, scores) * x).sum().backward()
    pooled = functional.attention_pool(x, scores).sum()
    assert torch.allclose(scores.grad, torch.autograd.grad(pooled, scores)[0])


@pytest.mark.parametrize("name", ["median", ["mean"], None])
def test_an_unknown_pooling_is_refused(name):
    message = rf"name: expected one of mean, .*, got {re.escape(repr(name))}"
    with pytest.raises(ValueError, match=message):
        functional.frame_weights(name, torch.rand(1, 1, 2))


@pytest.mark.parametrize("name", POOLINGS)
def test_every_backend_gives_the_same_weights(any_backend, device, name):
    case = make_case(name, masked=True, device=device)
    with milkernels.backend("reference"):
        expected = weights_of(case)
    assert torch.equal(weights_of(case), expected)


X = torch.rand(2, 3, 5)


@pytest.mark.parametrize(
    ("message", "arguments", "keywords"),
    [
        ("power: expected shape (3,), (classes,), got (4,)", ("power", X, torch.ones(4)), {}),
        ("power: power needs it, got none", ("power", X), {}),
        ("decay: expected a float in [0, 1], got 2.0", ("rank", X, 2.0), {}),
        ("x: expected 3 dimensions (batch, classes, frames), got shape (3, 5)", ("max", X[0]), {}),
        (
            "mask: expected shape (2, 5), (batch, frames), got (5, 2)",
            ("mean", X),
            {"mask": torch.ones(5, 2, dtype=torch.bool)},
        ),
        (
            "mask: expected a tensor on x's device cpu, got meta",
            ("mean", X),
            {"mask": torch.ones(2, 5, dtype=torch.bool, device="meta")},
        ),
        (
            "alpha: expected a tensor on x's device cpu, got meta",
            ("auto", X, torch.ones(3, device="meta")),
            {},
        ),
        (
            "scores: expected a tensor on x's device cpu, got meta",
            ("attention", X, X.to("meta")),
            {},
        ),
        (
            "dim: expected -1 or 2 for (batch, classes, frames), 1 for (batch, frames, classes), "
            "got 1.0",
            ("mean", X),
            {"dim": 1.0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_pooling_refuses_is_refused(message, arguments, keywords):
    with pytest.raises((ValueError, TypeError)) as caught:
        functional.frame_weights(*arguments, **keywords)
    assert str(caught.value) == message
