"""Short rows of contiguous frames: where nothing lies between them, the C++ kernels walk their
gradients as one line, or transpose them where parameters are learned."""

import pytest
import torch
from cases import POOLINGS, assert_close, make_case, with_gaps

from milkernels import backends, functional, reference

#: Less than a vector, one, several with and without a rest, the longest that are transposed, the
#: longest in a line, and longer.
FRAMES = (1, 2, 5, 15, 16, 17, 40, 48, 49, 60, 61, 64, 65, 100, 120, 121, 128, 255, 256, 257)

pytestmark = pytest.mark.skipif(
    not backends.cpp_serves_cpu(), reason="the C++ extension is not there"
)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", [1, 3, 16, 37])
@pytest.mark.parametrize("name", POOLINGS)
def test_they_give_the_bits_of_rows_with_gaps(name, classes, from_logits):
    for frames in FRAMES:
        case = make_case(name, 3, classes, frames, from_logits=from_logits)
        given = *case.run(functional), *case.run_for_x(functional)
        case.tensors = [with_gaps(tensor) for tensor in case.tensors]
        expected = *case.run(functional), *case.run_for_x(functional)
        for one, other in zip(given, expected, strict=True):
            assert torch.equal(one, other), frames


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("classes", [7, 8, 16, 37])
@pytest.mark.parametrize("name", ["auto", "power", "power_exp"])
def test_learned_parameters_get_the_oracles_gradients(name, classes, from_logits):
    for frames in FRAMES:
        case = make_case(name, 3, classes, frames, from_logits=from_logits)
        truth = case.to(torch.float64).run(reference)
        assert_close(case.run(functional), truth, relative=4e-6)


@pytest.mark.parametrize("name", ["linear_softmax", "power", "attention", "noisy_or", "max_mean"])
def test_nan_stays_in_its_row(name):
    others = [0, 1, 2, 4, *range(5, 21)]
    for frames in FRAMES:
        case = make_case(name, 2, 21, frames, from_logits=True)
        expected = case.run_for_x(functional)
        case.tensors[0][:, 3] = float("nan")
        for one, other in zip(case.run_for_x(functional), expected, strict=True):
            assert one[:, 3].isnan().all()
            assert torch.equal(one[:, others], other[:, others])


@pytest.mark.parametrize("shape", [(2, 16, 100), (8, 8, 100), (3, 40, 33)])
@pytest.mark.parametrize("name", ["auto", "power", "power_exp"])
def test_learned_parameters_get_the_same_bits_on_any_number_of_threads(name, shape):
    case = make_case(name, *shape, from_logits=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = case.run(functional)
        for others in (2, 3, 8):
            torch.set_num_threads(others)
            assert all(map(torch.equal, case.run(functional), expected)), others
    finally:
        torch.set_num_threads(threads)
