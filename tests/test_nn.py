"""The modules: their parameters, constraints and penalties."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import POOLINGS
from torch.nn.functional import binary_cross_entropy

from milkernels import functional, nn

X = torch.rand(4, 3, 25)


def build(name: str):
    if name == "class_attention":
        return nn.build_pooling("attention", 3, in_features=7, normalize="classes")
    options = {"in_features": 7} if name == "attention" else {}
    return nn.build_pooling(name, 3, **options)


def call(module, x):
    if isinstance(module, nn.AttentionPool):
        return module(x, torch.ones(x.shape[0], x.shape[2], 7))
    return module(x)


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_builds_by_name(name):
    assert call(build(name), X).shape == (4, 3)


def test_the_names_are_those_of_the_functions():
    functions = {name.removesuffix("_pool") for name in functional.__all__}
    assert set(nn.list_poolings()) == {name for name in POOLINGS if name in functions}


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"pooling: expected one of mean, max.*got 'median'"):
        nn.build_pooling("median", 3)


@pytest.mark.parametrize("name", POOLINGS)
def test_modules_copy_pickle_and_reload(name):
    module = build(name)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(call(other, X), call(module, X))
    fresh = build(name)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(call(fresh, X), call(module, X))


def test_modules_hand_layout_mask_and_logits_on():
    z, mask = torch.randn(2, 9, 3), torch.rand(2, 9) < 0.5
    module = nn.LinearSoftmaxPool(dim=1, from_logits=True)
    expected = functional.linear_softmax_pool(z, dim=1, mask=mask, from_logits=True)
    assert torch.equal(module(z, mask), expected)


def test_starting_values_are_the_papers():
    assert torch.allclose(build("power")(X), functional.linear_softmax_pool(X))
    assert torch.allclose(build("auto")(X), functional.exp_softmax_pool(X))
    assert torch.allclose(build("power_exp")(X), functional.linear_softmax_pool(X))


def test_power_stays_at_least_zero_and_can_come_back():
    module = nn.PowerPool(3, init=0.01)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for direction, reached in ((1.0, lambda n: (n == 0).all()), (-1.0, lambda n: (n > 0.1).all())):
        for _ in range(5):
            optimiser.zero_grad()
            (direction * module.constrained_power().sum()).backward()
            optimiser.step()
        assert reached(module.constrained_power())


@pytest.mark.parametrize("name", POOLINGS)
def test_vmap_maps_over_every_module(name):
    x, module = torch.rand(3, 2, 3, 9), build(name)
    mapped = torch.func.vmap(lambda bags: call(module, bags))(x)
    assert torch.equal(mapped, torch.stack([call(module, bags) for bags in x]))


@pytest.mark.parametrize("name", ["auto", "power", "power_exp", "log_mean_exp", "attention"])
def test_every_clip_has_gradients_of_its_own(name):
    """As for differential privacy: of the parameters, by `functional_call`, `grad` and `vmap`."""
    module = nn.LogMeanExpPool(3) if name == "log_mean_exp" else build(name)
    x, features = torch.rand(4, 3, 9), torch.rand(4, 9, 7)

    def loss(parameters, *clip):
        bags = tuple(tensor[None] for tensor in clip)
        return torch.func.functional_call(module, parameters, bags).square().sum()

    clips = (x, features) if name == "attention" else (x,)
    parameters = dict(module.named_parameters())
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *(0 for _ in clips)))
    gradients = mapped({key: value.detach() for key, value in parameters.items()}, *clips)
    for index, clip in enumerate(zip(*clips, strict=True)):
        alone = torch.autograd.grad(loss(parameters, *clip), list(parameters.values()))
        for key, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(gradients[key][index], expected)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: nn.PowerPool(3, init=-1),
            ValueError,
            "init: expected a finite number of at least 0, got -1",
        ),
        (
            lambda: nn.PowerPool(3, penalty=None),
            TypeError,
            "penalty: expected a number, got None",
        ),
        (
            lambda: nn.AutoPool(3, max_alpha=-2.0),
            ValueError,
            "max_alpha: expected a finite number of at least 0, got -2.0",
        ),
        (
            lambda: nn.AutoPool(3, init=float("nan")),
            ValueError,
            "init: expected a finite number, got nan",
        ),
        (
            lambda: nn.MeanPool(from_logits="yes"),
            TypeError,
            "from_logits: expected True or False, got 'yes'",
        ),
        (
            lambda: nn.MaxMeanPool().bce(X, torch.ones(X.shape[:2])),
            TypeError,
            "MaxMeanPool: its values are no probabilities, it has no cross-entropy",
        ),
    ],
)
def test_what_a_module_cannot_be_built_or_used_with_is_named(build, error, message):
    with pytest.raises(error) as caught:
        build()
    assert str(caught.value) == message


def test_numbers_may_be_of_any_real_type():
    assert nn.PowerPool(3, init=np.float32(2)).power[0] == 2


def test_a_dim_that_is_none_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"dim: expected -1 or 2 .*, got 17"):
        nn.MaxPool(17)


def test_constrained_auto_pool_holds_alpha():
    module = nn.AutoPool(3, init=50.0, max_alpha=2.0)
    assert torch.equal(module(X), functional.auto_pool(X, torch.full((3,), 2.0)))


@pytest.mark.parametrize(
    ("module", "penalty"),
    [
        (nn.AutoPool(3, init=2.0, penalty=0.5), 6.0),
        (nn.PowerPool(3, init=2.0), 12e-4),
        (nn.AutoPool(3), 0.0),
        (nn.MeanPool(), 0.0),
    ],
    ids=["auto with a penalty", "power", "auto", "mean"],
)
def test_the_penalty_is_lambda_times_the_sum_of_squares(module, penalty):
    assert float(module.penalty()) == pytest.approx(penalty)


def test_attention_scores_each_frame_with_one_linear_layer():
    module = nn.AttentionPool(7, 3, score_activation="clamp", dim=1, from_logits=True)
    z, features = torch.randn(2, 9, 3), torch.randn(2, 9, 7)
    expected = functional.attention_pool(
        z, module.scorer(features), "clamp", dim=1, from_logits=True
    )
    assert torch.equal(module(z, features), expected)
    assert sum(p.numel() for p in module.parameters()) == 7 * 3 + 3


def test_log_mean_exp_keeps_one_sharpness_or_learns_one_for_each_class():
    fixed, learned = nn.LogMeanExpPool(init=2.0), nn.LogMeanExpPool(3, init=2.0)
    assert torch.allclose(fixed(X), functional.log_mean_exp_pool(X, 2.0))
    assert torch.allclose(learned(X), fixed(X))
    learned(X).sum().backward()
    assert learned.sharpness.grad.abs().min() > 0
    assert list(fixed.parameters()) == []


def test_rank_pooling_decays_as_told():
    assert torch.allclose(nn.RankPool(0.5)(X), functional.rank_pool(X, 0.5))
    assert torch.allclose(nn.RankPool(0.0)(X), X.amax(-1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.RankPool(1.5), r"decay: expected a float in \[0, 1\], got 1.5"),
        (lambda: nn.LogMeanExpPool(init=0.0), "sharpness: expected a finite number other than 0"),
        (lambda: nn.AttentionPool(2, 3, "relu"), "score_activation: expected one of None"),
        (lambda: nn.AttentionPool(2, 3, normalize="bags"), "normalize: expected 'frames'"),
    ],
    ids=["decay", "sharpness", "score activation", "normalize"],
)
def test_wrong_options_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


ATTENTION, GMAP = nn.AttentionPool(6, 3), nn.GMAP(8)
FEATURES = "features: expected shape (4, 25, 6), (batch, frames, in_features), got "
CHANNELS = "h: expected 8 channels on axis "
FLOATING = "expected a float64, float32, bfloat16 or float16 tensor, got torch.bool"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ATTENTION(X, torch.rand(4, 6, 25)), ValueError, f"{FEATURES}(4, 6, 25)"),
        (lambda: ATTENTION(X, torch.rand(4, 24, 6)), ValueError, f"{FEATURES}(4, 24, 6)"),
        (lambda: ATTENTION(X, torch.rand(4, 25) < 1), TypeError, f"features: {FLOATING}"),
        (lambda: ATTENTION(X, None), TypeError, "features: expected a tensor, got NoneType"),
        (
            lambda: GMAP(torch.rand(2, 5, 8)),
            ValueError,
            f"{CHANNELS}1, got shape (2, 5, 8), frame_dim=1 takes the other layout",
        ),
        (
            lambda: nn.AttentionStatsPool(8, frame_dim=1)(torch.rand(2, 8, 5)),
            ValueError,
            f"{CHANNELS}2, got shape (2, 8, 5), frame_dim=2 takes the other layout",
        ),
        (lambda: GMAP(torch.rand(2, 7, 5)), ValueError, f"{CHANNELS}1, got shape (2, 7, 5)"),
        (
            lambda: nn.AttentionStatsPool(8, frame_dim=True),
            ValueError,
            "frame_dim: expected -1 or 2 for (batch, dim, frames), 1 for (batch, frames, dim), "
            "got True",
        ),
        *(
            (build, TypeError, "num_classes: expected a whole number, got 3.0")
            for build in (
                lambda: nn.PowerPool(3.0),
                lambda: nn.AutoPool(3.0),
                lambda: nn.PowerExpPool(3.0),
                lambda: nn.LogMeanExpPool(3.0),
                lambda: nn.AttentionPool(6, 3.0),
                lambda: nn.build_pooling("power", 3.0),
            )
        ),
        (lambda: nn.PowerPool(-1), ValueError, "num_classes: expected at least 0, got -1"),
        (
            lambda: nn.AttentionPool("6", 3),
            TypeError,
            "in_features: expected a whole number, got '6'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_a_module_is_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", nn.list_poolings(probabilities=True))
@pytest.mark.usefixtures("any_backend", "on_device")
def test_a_modules_loss_is_its_values_cross_entropy(name, dim):
    options = {"in_features": 6} if name == "attention" else {}
    pool = nn.build_pooling(name, 5, dim=dim, from_logits=True, **options)
    x = torch.randn(3, 5, 11) - 3
    mask = torch.rand(3, 11) < 0.7
    mask[:, 0] = True
    inputs = [x if dim == -1 else x.mT, *([torch.randn(3, 11, 6)] if options else [])]
    target, weight = torch.rand(3, 5), torch.rand(5)
    loss = pool.bce(*inputs, target, mask=mask, weight=weight)
    expected = binary_cross_entropy(
        pool(*inputs, mask=mask), target, weight=weight.expand(3, 5).contiguous()
    )
    torch.testing.assert_close(loss, expected)
