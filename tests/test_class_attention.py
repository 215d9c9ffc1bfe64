"""What attention over the classes promises beside what every pooling does."""

import pytest
import torch
from cases import assert_close, make_case

import milkernels
from milkernels import functional, reference
from milkernels.kernels import class_attention

LAYOUTS = pytest.mark.parametrize("dim", [-1, 1])


def as_layout(tensor, dim):
    return tensor if dim == -1 else tensor.transpose(1, 2).contiguous()


def pool_and_gradients(x, scores, dim=-1, **keywords):
    """y and the gradients, as (batch, classes, frames)."""
    tensors = [as_layout(tensor, dim).detach().requires_grad_() for tensor in (x, scores)]
    y = functional.attention_pool(*tensors, normalize="classes", dim=dim, **keywords)
    gradients = torch.autograd.grad(y.sum(), tensors)
    return y.detach(), [as_layout(gradient, dim) for gradient in gradients]


@LAYOUTS
def test_a_nan_frame_spoils_its_class_and_all_scores_gradients(any_backend, device, dim):
    x, scores = torch.rand(2, 3, 40, device=device), torch.randn(2, 3, 40, device=device)
    clean, (clean_gradient, _) = pool_and_gradients(x, scores, dim)
    x[1, 2, 5] = torch.nan
    y, (x_gradient, scores_gradient) = pool_and_gradients(x, scores, dim)
    assert y[1, 2].isnan() and torch.equal(y[1, :2], clean[1, :2])
    assert torch.equal(x_gradient[1, :2], clean_gradient[1, :2])
    assert scores_gradient[1].isnan().all() and scores_gradient[0].isfinite().all()


@LAYOUTS
def test_a_nan_score_spoils_its_bag(any_backend, device, dim):
    x, scores = torch.rand(2, 3, 40, device=device), torch.randn(2, 3, 40, device=device)
    clean, _ = pool_and_gradients(x, scores, dim)
    scores[1, 2, 5] = torch.nan
    y, (x_gradient, _) = pool_and_gradients(x, scores, dim)
    assert y[1].isnan().all() and torch.equal(y[0], clean[0])
    assert x_gradient[0].isfinite().all()


@LAYOUTS
def test_a_score_of_minus_infinity_is_the_smallest_share(any_backend, device, dim):
    x, scores = torch.rand(2, 3, 40, device=device), torch.randn(2, 3, 40, device=device)
    scores[:, 1] = -torch.inf
    y, (x_gradient, scores_gradient) = pool_and_gradients(x, scores, dim)
    assert torch.allclose(y[:, 1], x[:, 1].mean(-1))
    assert torch.allclose(x_gradient[:, 1], torch.full_like(x[:, 1], 1 / 40))
    assert (scores_gradient[:, 1] == 0).all()


@LAYOUTS
def test_past_the_clamp_a_share_is_constant(kernel_backend, device, dim):
    """Scores so far apart that most shares are clamped; the truth is the oracle's."""
    case = make_case("class_attention", 2, 6, 40, dim=dim, dtype=torch.float64, device=device)
    case.tensors[1] = 10 * case.tensors[1]
    assert_close(case.run(functional), case.run(reference), relative=1e-13)


@LAYOUTS
@pytest.mark.parametrize("wanted", [0, 1], ids=["x", "scores"])
def test_one_gradient_alone_is_the_same(any_backend, device, dim, wanted):
    case = make_case("class_attention", 2, 20, 50, dim=dim, masked=True, device=device)
    expected = case.run(functional)[1 + wanted]
    tensors = [tensor.detach() for tensor in case.tensors]
    tensors[wanted].requires_grad_()
    y = case.function(functional)(*tensors, **case.keywords)
    (gradient,) = torch.autograd.grad(y, tensors[wanted], case.bag_gradient())
    assert torch.equal(gradient, expected)


@LAYOUTS
@pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])
def test_more_classes_than_a_tile_holds(kernel_backend, device, dim, from_logits):
    options = {"dim": dim, "from_logits": from_logits, "masked": True, "device": device}
    case = make_case("class_attention", 1, 1100, 9, score_activation="tanh", **options)
    assert_close(case.run(functional), case.to(torch.float64).run(reference), relative=1e-6)


@LAYOUTS
def test_how_a_bags_frames_are_shared_out_changes_little(dim, monkeypatch):
    """On a GPU: one program, and several whose sums are joined."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = make_case("class_attention", 1, 6, 400, dim=dim, masked=True, device=device)
    case.keywords["mask"][:, 112:224] = False
    with milkernels.backend("triton"):
        several = case.run(functional)
        monkeypatch.setattr(class_attention, "_PROGRAMS", 1)
        assert_close(case.run(functional), several, relative=1e-6)
