"""Frames of contiguous classes that would leave lanes empty: the C++ kernels join several of them,
or turn blocks of them into rows, and walk their gradients as one line where there is neither a mask
nor a gap."""

import pytest
import torch
from cases import POOLINGS, assert_close, make_case, with_gaps
from loss_cases import labels_of
from loss_cases import run as run_with_loss

from milkernels import backends, functional, reference
from milkernels.family import Average
from milkernels.kernels.cpp import weighted_average

#: A vector of frames, a block of them, and one more or less.
FRAMES = (7, 8, 15, 16, 17, 33, 97, 255, 256, 257, 300)
#: Classes beside one or two vectors of them, and bags so long that the way through them changes.
BESIDE_VECTORS = (9, 17, 18, 20, 24, 33, 36)
LONGER = (16, 100, 577, 3001)

pytestmark = pytest.mark.skipif(
    not backends.cpp_serves_cpu(), reason="the C++ extension is not there"
)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 8, 10, 12, 13])
@pytest.mark.parametrize("name", POOLINGS)
def test_they_give_the_oracles_numbers(name, classes, from_logits):
    for index, frames in enumerate(FRAMES):
        masked = index % 2 == 1
        case = make_case(name, 3, classes, frames, dim=1, from_logits=from_logits, masked=masked)
        truth = case.to(torch.float64).run(reference)
        assert_close(case.run(functional), truth, relative=4e-6)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", BESIDE_VECTORS)
@pytest.mark.parametrize("name", POOLINGS)
def test_so_do_classes_beside_whole_vectors(name, classes, from_logits):
    for frames in LONGER:
        for masked in (False, True):
            case = make_case(
                name, 2, classes, frames, dim=1, from_logits=from_logits, masked=masked
            )
            truth = case.to(torch.float64).run(reference)
            assert_close(case.run(functional), truth, relative=4e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [3, 6, 20])
@pytest.mark.parametrize("name", ["exp_softmax", "attention", "log_mean_exp"])
def test_so_do_other_types(name, classes, dtype):
    case = make_case(name, 2, classes, 1001, dim=1, from_logits=False).to(dtype)
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=1e-12 if dtype == torch.float64 else 8e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [2, 8, 12, 13, 17, 24, 25])
def test_classes_that_compete_in_rows_give_the_oracles_numbers(classes, masked):
    for frames in FRAMES:
        case = make_case("class_attention", 2, classes, frames, dim=1, masked=masked)
        truth = case.to(torch.float64).run(reference)
        assert_close(case.run(functional), truth, relative=4e-6)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 8, 12, 17, 33])
@pytest.mark.parametrize("name", ["auto", "power", "power_exp"])
def test_learned_parameters_get_the_oracles_gradients_of_long_bags(name, classes, from_logits):
    case = make_case(name, 2, classes, 20_001, dim=1, from_logits=from_logits)
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=4e-6)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5, 8, 10, 12, 13, 17, 33])
@pytest.mark.parametrize("name", POOLINGS)
def test_they_give_the_numbers_of_frames_with_gaps(name, classes, from_logits):
    for frames in (*FRAMES, 5000):
        case = make_case(name, 3, classes, frames, dim=1, from_logits=from_logits)
        given = case.run_for_x(functional)
        case.tensors = [with_gaps(tensor) for tensor in case.tensors]
        assert_close(case.run_for_x(functional), given, relative=4e-6)


@pytest.mark.parametrize("name", ["exp_softmax", "power_exp", "noisy_or", "attention"])
@pytest.mark.parametrize("classes", [2, 5, 12])
def test_so_does_the_loss_in_one_pass(name, classes):
    case = make_case(name, 3, classes, 300, dim=1, from_logits=True)
    turned = case.to(torch.float32)
    turned.keywords = {**case.keywords, "dim": 2}
    turned.tensors = [
        tensor.mT.contiguous() if tensor.dim() == 3 else tensor for tensor in case.tensors
    ]
    target = labels_of(case)
    loss, *gradients = run_with_loss(functional, case, target)
    expected, *rows = run_with_loss(functional, turned, target)
    assert_close([loss], [expected], relative=1e-6)
    rows = [gradient.mT if gradient.dim() == 3 else gradient for gradient in rows]
    assert_close(gradients, rows, relative=4e-6)


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_nothing_is_written_beyond_a_bags_frames(classes):
    for frames in FRAMES:
        memory = torch.full((1, frames + 8, classes), 7.0)
        x, x_gradient = torch.rand(1, frames, classes).mT, memory[:, 4:-4].mT
        average = Average("linear_softmax", None, False, False)
        nothing = (None, None, None, None)
        _, statistics = weighted_average.forward(x, *nothing, average)
        weighted_average.backward(
            torch.ones(1, classes), x, *nothing, statistics, average, x_gradient, None, None, None
        )
        assert (memory[:, :4] == 7).all()
        assert (memory[:, -4:] == 7).all()
        assert x_gradient.isfinite().all()
        assert (x_gradient != 7).all()


@pytest.mark.parametrize("classes", [2, 5, 10, 17])
def test_frames_may_overlap_in_memory(classes):
    views = {
        "one frame, again and again": torch.rand(1, 1, classes).expand(1, 300, classes),
        "windows": torch.rand(299 + classes).unfold(0, classes, 1)[None],
    }
    for frames in views.values():
        y = functional.exp_softmax_pool(frames, dim=1)
        expected = functional.exp_softmax_pool(frames.contiguous(), dim=1)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=0)
