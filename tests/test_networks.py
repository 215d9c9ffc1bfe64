"""Every published system: its size, its padding, its twin with eager pooling."""

import copy
import math

import pytest
import torch
from networks import FRAMES, MELS, SMALL, VARIANTS

from milkernels import functional
from milkernels.nn import list_poolings
from models import build_model, list_model_poolings, list_models, model_class
from models.data.classes import ClassList
from models.detector import Detector, DetectorSpec
from models.layers.convolution import ConvolutionBlock, Pool
from models.layers.padding import Padding, as_maps

CLASSES = 3
LENGTHS = torch.tensor([FRAMES, 13, 5])

# The networks with a `FrameHead` share it; test_dcase2017_crnn.py has it with every pooling.
CASES = [
    (variant, pooling)
    for variant, (name, _) in VARIANTS.items()
    for pooling in list_model_poolings(name)
    if name in ("gmap_cnn", "atrous_cnn") or pooling in (model_class(name).default_pooling, "auto")
]


def build(variant, pooling=None, **more):
    name, options = VARIANTS[variant]
    return build_model(name, CLASSES, pooling, mels=MELS, **options, **more)


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def trained_a_little(model):
    """Batch statistics that are not 0 and 1, and parameters that differ between classes."""
    model.train()
    with torch.no_grad():
        model(2 * torch.randn(4, FRAMES, MELS) + 1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return model.eval()


def one_row(output, index):
    """What a batch's output says of one clip, padding left out."""
    real = slice(None) if output.mask is None else slice(int(output.mask[index].sum()))
    frame = None if output.frame is None else output.frame[index, real]
    return output.clip[index], frame


@pytest.mark.parametrize(
    ("name", "classes", "pooling", "options", "count"),
    [
        ("dcase2017_crnn", 17, None, {}, 936_041),
        ("dcase2017_crnn", 17, "attention", {}, 939_458),
        ("talnet", 527, None, {}, 9_980_527),
        ("talnet", 527, "attention", {}, 9_980_527 + 540_175),
        # The paper's features and head; it gives 1.118 M.
        ("power_crnn", 17, None, {}, 1_117_706),
        ("two_step_autoencoder", 41, None, {}, 1_967_366),
        ("atrous_cnn", 41, "max", {}, 587_593),
        ("atrous_cnn", 41, "rank", {}, 587_593),
        ("atrous_cnn", 41, "attention", {}, 1_047_570),
        ("gated_crnn", 17, None, {"task": "tagging"}, 1_188_753),
        ("gated_crnn", 17, None, {"task": "detection"}, 1_189_059),
    ],
)
def test_parameter_counts_are_the_published_systems(name, classes, pooling, options, count):
    assert size(build_model(name, classes, pooling, **options)) == count


def test_the_autoencoders_parts_have_the_papers_sizes():
    model = build_model("two_step_autoencoder", 41)
    encoder = size(model.encoder) + size(model.classifier)
    assert (encoder, size(model.decoder), size(model.pool)) == (1_183_177, 581_805, 202_384)


def test_every_system_is_tested():
    assert set(SMALL) == set(list_models())


@pytest.mark.parametrize(
    ("name", "frames", "left"),
    [
        ("dcase2017_crnn", 400, 100),
        ("talnet", 400, 100),
        ("power_crnn", 400, 100),
        ("two_step_autoencoder", 311, 311),
        ("atrous_cnn", 311, 311),
        ("gated_crnn", 240, 240),
    ],
)
def test_frames_of_a_ten_second_clip(name, frames, left):
    options = {**SMALL[name], **({"num_frames": frames} if "num_frames" in SMALL[name] else {})}
    model = build_model(name, CLASSES, mels=MELS, **options).eval()
    assert model.frame_reduction == frames // left
    output = model(torch.randn(1, frames, MELS))
    assert output.clip.shape == (1, CLASSES)
    assert output.frame.shape == (1, left, CLASSES)
    assert output.mask is None
    assert bool(((output.frame >= 0) & (output.frame <= 1)).all())


def test_tagging_by_the_gated_network_keeps_an_eighth_of_the_frames():
    output = build("gated_crnn tagging")(torch.randn(1, 240, MELS))
    assert output.frame.shape[1] == 30


def test_the_tagger_has_no_frame_probabilities():
    assert build("gmap_cnn")(torch.randn(2, FRAMES, MELS)).frame is None


@pytest.mark.parametrize(("variant", "pooling"), CASES)
def test_a_clip_gives_the_same_alone_and_padded_in_a_batch(variant, pooling):
    model = trained_a_little(build(variant, pooling))
    features = torch.randn(len(LENGTHS), FRAMES, MELS)
    batch = model(features, LENGTHS)
    for index, length in enumerate(LENGTHS.tolist()):
        alone = model(features[index : index + 1, :length])
        torch.testing.assert_close(one_row(batch, index), one_row(alone, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_may_hold_anything_and_be_of_any_length(variant):
    model = build(variant).train()
    state = copy.deepcopy(model.state_dict())
    features = torch.randn(len(LENGTHS), FRAMES, MELS)
    results = []
    for frames, filling in ((13, 0.0), (FRAMES, math.nan)):
        model.load_state_dict(state)
        padded = features[1:, :frames].clone()
        padded[0, 13:] = filling
        padded[1, 5:] = filling
        output = model(padded, LENGTHS[1:])
        gradient = torch.autograd.grad(
            output.clip.sum() + output.penalty, list(model.parameters()), allow_unused=True
        )
        results.append((output.clip, [part for part in gradient if part is not None]))
        results[-1] += ({name: value.clone() for name, value in model.named_buffers()},)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_without_frames_is_finite_and_touches_no_other(variant):
    model = trained_a_little(build(variant))
    features = torch.randn(2, FRAMES, MELS)
    output = model(features, torch.tensor([FRAMES, 0]))
    assert bool(output.clip.isfinite().all())
    torch.testing.assert_close(output.clip[0], model(features[:1]).clip[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("variant", "pooling"), CASES)
def test_the_twin_with_eager_pooling_computes_the_same(variant, pooling, monkeypatch):
    ours = build(variant, pooling).train()
    twin = build(variant, pooling, reference_pooling=True).train()
    twin.load_state_dict(ours.state_dict())
    features = torch.randn(len(LENGTHS), FRAMES, MELS)
    results = []
    for model in (ours, twin):
        output = model(features, LENGTHS)
        loss = output.clip.square().sum() + output.penalty
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        results.append((output.clip, [part for part in gradients if part is not None]))
        # The second time the package's own functions are out of reach.
        for name in functional.__all__:
            monkeypatch.setattr(functional, name, None)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


def test_the_twin_is_eager_pytorch_and_its_like_is_not():
    ours, eager = (
        {type(part).__name__ for part in build("gmap_cnn", reference_pooling=twin).modules()}
        for twin in (False, True)
    )
    assert ours - eager == {"AttentionStatsPool", "GatedFusion"}
    assert eager - ours == {"ReferenceAttentionStatsPool", "ReferenceGatedFusion"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_stay_in_float32_under_mixed_precision(variant):
    model = build(variant)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(3, FRAMES, MELS), LENGTHS)
        loss = output.clip.sum() + output.penalty
    loss.backward()
    assert output.clip.dtype == torch.float32
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    model = build(variant)
    output = model(torch.randn(3, FRAMES, MELS), LENGTHS)
    (output.clip.square().sum() + output.penalty).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize("name", list_models())
def test_a_pooling_that_a_system_does_not_take_is_refused(name):
    refused = "max_mean" if name != "gmap_cnn" else "linear_softmax"
    assert refused in list_poolings()
    expected = f"pooling: expected one of .*{list_model_poolings(name)[0]}.*, got '{refused}'"
    with pytest.raises(ValueError, match=expected):
        build_model(name, CLASSES, refused)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dcase2017_crnn", {"channels": [8]}, r"channels: expected 3 numbers, got \[8\]"),
        ("talnet", {"channels": [8]}, r"channels: expected 5 numbers, got \[8\]"),
        ("gmap_cnn", {"channels": [8]}, r"channels: expected 4 numbers, got \[8\]"),
        ("gmap_cnn", {"heads": 7}, "heads: expected a divisor of dim = 512, got 7"),
        ("atrous_cnn", {"channels": [8]}, r"channels: expected 3 numbers, got \[8\]"),
        ("atrous_cnn", {"backbone": "resnet"}, "backbone: expected one of vgg, atrous"),
        ("gated_crnn", {"task": "counting"}, "task: expected one of tagging, detection"),
        ("two_step_autoencoder", {"variant": "other"}, "variant: expected one of"),
    ],
)
def test_options_that_fit_no_network_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, CLASSES, **options)


def test_the_autoencoder_refuses_clips_longer_than_its_layers():
    with pytest.raises(ValueError, match=f"at most {FRAMES} frames, got {FRAMES + 1}"):
        build("two_step_autoencoder")(torch.randn(1, FRAMES + 1, MELS))


def test_a_detectors_layers_have_the_frames_of_its_clips():
    options = SMALL["two_step_autoencoder"]
    classes = ClassList(("/m/a",), ("A",))
    without = {name: value for name, value in options.items() if name != "num_frames"}
    spec = DetectorSpec("two_step_autoencoder", None, None, without)
    assert Detector(spec, classes).network.num_frames == 311
    spec = DetectorSpec("two_step_autoencoder", None, "gated_crnn", without)
    assert Detector(spec, classes).network.num_frames == 240
    with pytest.raises(ValueError, match=r"num_frames: expected at least 311, .* 10 s, got 24"):
        Detector(DetectorSpec("two_step_autoencoder", None, None, options), classes)


@pytest.mark.parametrize("variant", ["gmap_cnn", "two_step_autoencoder"])
def test_a_network_can_be_exported_for_any_number_of_clips(variant):
    class Plain(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, features):
            return self.network(features).clip

    model = Plain(build(variant, reference_pooling=True).eval())
    clips = torch.export.Dim("clips", min=1, max=64)
    dynamic = torch.export.export(
        model, (torch.randn(2, FRAMES, MELS),), dynamic_shapes=({0: clips},)
    )
    features = torch.randn(5, FRAMES, MELS)
    torch.testing.assert_close(dynamic.module()(features), model(features))


def test_the_autoencoders_loss_is_alpha_times_the_error_of_real_frames():
    model = build("two_step_autoencoder", alpha=0.5)
    features = torch.randn(len(LENGTHS), FRAMES, MELS)
    output = model(features, LENGTHS)
    assert output.reconstruction.shape == features.shape
    real = [slice(length) for length in LENGTHS.tolist()]
    errors = [
        (output.reconstruction[index, part] - features[index, part]).square().flatten()
        for index, part in enumerate(real)
    ]
    assert output.penalty.item() == pytest.approx(0.5 * torch.cat(errors).mean().item(), rel=1e-5)
    assert model.eval()(features, LENGTHS).penalty == 0


@pytest.mark.parametrize("variant", ["two_step_autoencoder", "two_step_autoencoder code"])
def test_the_autoencoder_explains_each_step(variant):
    model = trained_a_little(build(variant))
    features = torch.randn(len(LENGTHS), FRAMES, MELS)
    output = model(features, LENGTHS)
    steps = model.explain(features, LENGTHS)
    torch.testing.assert_close(steps.clip, output.clip)
    torch.testing.assert_close(steps.reconstruction, output.reconstruction)
    assert steps.frequency_attention.shape == (len(LENGTHS), CLASSES, FRAMES, MELS)
    real = output.mask[:, None].expand(-1, CLASSES, -1)
    torch.testing.assert_close(steps.frequency_attention.sum(3), real.float())
    torch.testing.assert_close(steps.time_attention.sum(2), torch.ones(len(LENGTHS), CLASSES))
    assert bool((steps.time_attention[~real] == 0).all())
    assert bool((steps.first_step[~real] == 0).all())
    expected = steps.second_step.sigmoid() if model.pool.variant == "paper" else steps.second_step
    torch.testing.assert_close(steps.clip, expected)


def test_the_power_penalty_can_be_left_out():
    assert build("power_crnn")(torch.randn(1, 8, MELS)).penalty.item() == pytest.approx(3e-4)
    without = build("power_crnn", pooling_options={"penalty": 0.0})
    assert without(torch.randn(1, 8, MELS)).penalty == 0


@pytest.mark.parametrize("kind", ["max", "average", "smooth"])
@pytest.mark.parametrize("activation", ["relu", "glu"])
def test_an_incomplete_window_is_pooled_alone(kind, activation):
    pool = Pool(kind) if kind == "smooth" else Pool(kind, (3, 2))
    block = ConvolutionBlock(1, 4, pool=pool, activation=activation, batch_norm=False, bias=True)
    features = torch.randn(3, 13, 5)
    lengths = torch.tensor([13, 7, 2])
    batch, padding = block(*as_maps(features, lengths))
    for index, length in enumerate(lengths.tolist()):
        alone, _ = block(*as_maps(features[index : index + 1, :length], None))
        frames = int(padding.lengths[index])
        torch.testing.assert_close(batch[index, :, :frames], alone[0])
        assert bool((batch[index, :, frames:] == 0).all())


def test_padding_counts_the_frames_that_are_left():
    padding = Padding(torch.tensor([0, 1, 4, 5]), 5, torch.device("cpu")).pooled(2)
    assert padding.lengths.tolist() == [0, 1, 2, 3]
    assert padding.frames == 3
    assert padding.real.tolist() == [3, 6, 7, 9, 10, 11]


def test_learning_from_clips_computes_no_frame_probabilities():
    output = build("dcase2017_crnn")(torch.randn(1, FRAMES, MELS))
    assert "frame" not in vars(output)
    torch.testing.assert_close(output.frame, output.frame_values.sigmoid())
    assert output.frame is output.frame
