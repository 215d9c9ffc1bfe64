"""Drop-in heads: the originals' parameters and numbers, and swapping them inside a model."""

import pickle
from copy import deepcopy

import originals
import pytest
import torch
from torch import nn

from milkernels import compat

FLOAT64 = torch.float64


def features(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, dtype=FLOAT64)


#: Name, how the original and ours are built, and what both are called with.
HEADS = {
    "PANNs, linear": ("AttBlock", (6, 4), {}, (3, 6, 11)),
    "PANNs, sigmoid": ("AttBlock", (6, 4), {"activation": "sigmoid"}, (3, 6, 11)),
    "BirdCLEF, linear": ("AttBlockV2", (6, 4), {}, (3, 6, 11)),
    "BirdCLEF, sigmoid": ("AttBlockV2", (6, 4), {"activation": "sigmoid"}, (3, 6, 11)),
    "SpeechBrain": ("AttentiveStatisticsPooling", (6, 8), {}, (3, 6, 11)),
    "SpeechBrain without context": (
        "AttentiveStatisticsPooling",
        (6, 8),
        {"global_context": False},
        (3, 6, 11),
    ),
    "deep MIL": ("GatedAttention", (6, 8), {}, (11, 6)),
    "deep MIL, three branches": ("GatedAttention", (6, 8, 3), {}, (11, 6)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The original, ours with its state_dict, and an input with scores beyond the clamp."""
    head, arguments, keywords, shape = HEADS[name]
    theirs = getattr(originals, head)(*arguments, **keywords).double()
    ours = getattr(compat, head)(*arguments, **keywords).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, features(*shape, scale=10)


def outputs_and_gradients(module: nn.Module, x: torch.Tensor, *rest) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    outputs = module(x, *rest)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    sum((output * output.detach().cos()).sum() for output in outputs).backward()
    return [*outputs, x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_a_head_has_the_originals_parameters_numbers_and_gradients(name, training):
    theirs, ours, x = pair(name)
    theirs.train(training)
    ours.train(training)
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_right_in_single_precision(name):
    theirs, ours, x = pair(name)
    expected = theirs.eval()(x)
    got = ours.eval().float()(x.float())
    for one, two in zip(
        got if isinstance(got, tuple) else [got],
        expected if isinstance(expected, tuple) else [expected],
        strict=True,
    ):
        assert torch.allclose(one.double(), two, rtol=1e-4, atol=1e-5)


def test_speechbrains_lengths_are_kept():
    theirs, ours, x = pair("SpeechBrain")
    lengths = torch.tensor([1.0, 0.5, 0.31], dtype=FLOAT64)
    assert_same(outputs_and_gradients(ours, x, lengths), outputs_and_gradients(theirs, x, lengths))


@pytest.mark.parametrize(
    "lengths",
    [torch.tensor([0.5]), torch.tensor([True, True, True]), torch.tensor([1, 1, 1])],
    ids=["one for all", "bools", "whole numbers"],
)
def test_speechbrains_lengths_are_what_the_original_takes(lengths):
    theirs, ours, x = pair("SpeechBrain")
    assert_same(outputs_and_gradients(ours, x, lengths), outputs_and_gradients(theirs, x, lengths))


def test_speechbrains_lengths_may_be_on_another_device():
    head = compat.AttentiveStatisticsPooling(6).to("meta")
    x = features(3, 6, 11).float().to("meta")
    assert head(x, torch.ones(3)).device == x.device


def desed_pair() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    theirs = originals.CRNN(6, 4).double()
    ours = compat.DESEDHead(6, 4).double()
    states = {k: v for k, v in theirs.state_dict().items() if k.startswith("dense")}
    ours.load_state_dict(states)
    return theirs, ours, features(3, 11, 6, scale=4)


def test_desed_head_has_the_originals_numbers_without_padding():
    theirs, ours, x = desed_pair()
    theirs.rnn = nn.Identity()
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x))
    known = torch.tensor([[True, True, False, True]] * 3)
    assert_same(
        outputs_and_gradients(ours, x, None, known), outputs_and_gradients(theirs, x, None, known)
    )


def test_desed_head_leaves_padded_frames_out_where_the_original_does_not():
    theirs, ours, x = desed_pair()
    theirs.rnn = nn.Identity()
    padded = torch.zeros(3, 1, 11, dtype=torch.bool)
    padded[..., 7:] = True
    _, weak = ours(x, padded)
    _, short = ours(x[:, :7])
    assert torch.allclose(weak, short)
    assert not torch.allclose(theirs(x, padded)[1], short)


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (1, 1)])
def test_desed_heads_class_masks_broadcast_as_the_originals(shape):
    theirs, ours, x = desed_pair()
    theirs.rnn = nn.Identity()
    known = torch.rand(shape) < 0.5
    assert_same(list(ours(x, None, known)), list(theirs(x, None, known)))


@pytest.mark.parametrize("shape", [(3, 1, 11), (1, 1, 11), (3, 1, 1), (1, 1, 1), (3, 11), (1, 11)])
def test_desed_heads_padding_broadcasts_as_the_originals(shape):
    _, ours, x = desed_pair()
    padded = torch.rand(shape) < 0.5
    whole = padded.reshape(shape[0], shape[-1]).expand(3, 11)
    assert_same(list(ours(x, padded)), list(ours(x, whole.contiguous())))


@pytest.mark.parametrize("shape", [(3, 4, 11), (1, 4, 11), (3, 4, 1)])
def test_desed_head_pads_frames_of_single_classes_as_the_original(shape):
    theirs, ours, x = desed_pair()
    theirs.rnn = nn.Identity()
    padded = torch.rand(shape) < 0.5
    # A frame without any class the original averages in.
    padded[:, 0] = False
    assert_same(list(ours(x, padded)), list(theirs(x, padded)))


def test_desed_head_leaves_out_frames_of_which_every_class_is_padded():
    _, ours, x = desed_pair()
    padded = torch.zeros(3, 4, 11, dtype=torch.bool)
    padded[..., 7:] = True
    assert torch.allclose(ours(x, padded)[1], ours(x[:, :7])[1])


def test_gated_attention_pools_a_batch_of_bags_of_different_lengths():
    _, head, _ = pair("deep MIL, three branches")
    bags = [features(length, 6) for length in (5, 9, 2)]
    batch = nn.utils.rnn.pad_sequence(bags, batch_first=True, padding_value=torch.nan)
    mask = batch.isfinite().all(-1)
    embeddings, weights = head(batch, mask)
    for index, bag in enumerate(bags):
        embedding, weight = head(bag)
        assert torch.allclose(embeddings[index], embedding)
        assert torch.allclose(weights[index, :, : len(bag)], weight)


@pytest.mark.parametrize("name", ["PANNs, sigmoid", "BirdCLEF, linear"])
def test_weights_may_be_left_out(name):
    theirs, ours, x = pair(name)
    ours.need_weights = False
    clip, weights, frames = ours(x)
    assert weights is None
    expected, _, expected_frames = theirs(x)
    assert_same([clip, frames], [expected, expected_frames])


@pytest.mark.parametrize("name", ["PANNs, sigmoid", "BirdCLEF, linear"])
@pytest.mark.usefixtures("any_backend", "on_device")
def test_every_backend_returns_weights(name):
    theirs, ours, x = pair(name)
    assert_same(list(ours(x)), list(theirs(x)))


class Model(nn.Module):
    """A network with every head somewhere in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tagger = nn.Sequential(nn.Conv1d(6, 6, 3), originals.AttBlock(6, 4, "sigmoid"))
        self.bird = originals.AttBlockV2(6, 4)
        self.speaker = nn.ModuleDict({"pool": originals.AttentiveStatisticsPooling(6, 8)})
        self.slide = originals.GatedAttention(6, 8)
        self.detector = originals.CRNN(6, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        frames = x.transpose(1, 2)
        return [
            *self.tagger(x),
            *self.bird(x),
            self.speaker["pool"](x),
            *self.slide(frames[0]),
            *self.detector(frames),
        ]


def test_replace_swaps_every_head_and_changes_no_number():
    model = Model().double()
    x = features(3, 6, 11, scale=3)
    expected = outputs_and_gradients(lambda_module(model), x)
    parameters = list(model.parameters())
    keys = model.state_dict().keys()
    report = compat.replace(model)
    assert [(one.path, one.head) for one in report.replaced] == [
        ("tagger.1", "AttBlock"),
        ("bird", "AttBlockV2"),
        ("speaker.pool", "AttentiveStatisticsPooling"),
        ("slide", "GatedAttention"),
        ("detector", "DESEDHead"),
    ]
    assert report.kept == ()
    assert "replaced bird: AttBlockV2 -> AttBlockV2" in str(report)
    assert_same(outputs_and_gradients(lambda_module(model), x), expected)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.state_dict().keys() == keys


def lambda_module(model: nn.Module) -> nn.Module:
    """The model with a tuple as its output."""

    class Tuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model(x))

    return Tuple()


def test_replacing_again_finds_nothing():
    model = Model()
    compat.replace(model)
    assert compat.replace(model).replaced == ()


def test_the_model_itself_may_be_a_head():
    model = originals.AttBlockV2(6, 4)
    assert compat.replace(model).replaced[0].path == "the model"
    assert isinstance(model, compat.AttBlockV2)


def test_a_replaced_model_is_copied_and_pickled():
    model = Model().double()
    compat.replace(model)
    x = features(3, 6, 11)
    for other in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(other(x), model(x))
        assert type(other.detector) is type(model.detector)
        assert isinstance(other.detector, originals.CRNN)


def test_mode_hooks_and_weights_setting_are_kept():
    model = originals.AttBlock(6, 4).eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    compat.replace(model, need_weights=False)
    assert not model.training
    assert model(torch.randn(2, 6, 5))[1] is None
    assert calls == [1]


class SharpAttBlock(originals.AttBlockV2):
    def weights(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(2 * self.att(x).tanh(), -1)


class DroppingAttBlock(originals.AttBlock):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.dropout = nn.Dropout()


class BrokenAttBlock(originals.AttBlock):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("needs two inputs")


class MeanCRNN(originals.CRNN):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.attention = False


class ClampedCRNN(originals.CRNN):
    def _get_logits_one_head(self, x, pad_mask, dense, dense_softmax, classes_mask=None):
        strong, weak = super()._get_logits_one_head(x, pad_mask, dense, dense_softmax)
        return strong, weak.clamp(0.2, 0.8)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            SharpAttBlock(6, 4),
            "gives other numbers than AttBlock; gives other numbers than AttBlockV2",
        ),
        (DroppingAttBlock(), "has parts that AttBlock does not know: dropout; "),
        (BrokenAttBlock(6, 4), "could not be compared with AttBlock: needs two inputs"),
        (originals.EarlierCRNN(6, 4), "computes its head inside forward: call compat.DESEDHead"),
        (MeanCRNN(), "does not pool by attention"),
        (ClampedCRNN(6, 4), "its _get_logits_one_head gives other numbers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_known_head_is_kept_and_the_report_says_why(module, reason):
    before = type(module)
    report = compat.replace(nn.Sequential(module))
    assert type(module) is before
    assert report.replaced == ()
    assert report.kept[0].path == "0"
    assert reason in report.kept[0].reason


def test_a_model_without_heads_is_said_to_have_none():
    assert str(compat.replace(nn.Linear(2, 2))) == "no head was recognised"


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"^model: expected a torch.nn.Module, got str$"):
        compat.replace("model")


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation: expected 'linear' or 'sigmoid', got 'relu'"):
        compat.AttBlock(2, 3, "relu")
