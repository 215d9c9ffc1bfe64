"""Bags longer than one program or task walks through: cut, and joined in order."""

import pytest
import torch
from cases import POOLINGS, Case, assert_close, make_case

import milkernels
from milkernels import functional, reference
from milkernels.kernels import lanes, rank, tiles


@pytest.fixture
def segment(kernel_backend, monkeypatch, short_segments):
    """Frames of a segment: Triton's are cut short, so that its interpreter meets several."""
    if kernel_backend == "cpp":
        return 16384
    monkeypatch.setattr(rank, "SORTED_FRAMES", 64)
    monkeypatch.setattr(rank, "SEGMENT_FRAMES", 256)
    return 256


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", POOLINGS)
def test_a_bag_of_several_segments_is_one_bag(segment, device, name, dim):
    case = make_case(name, 1, 2, 3 * segment + 13, dim=dim, masked=True, device=device)
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=3e-6)


@pytest.mark.parametrize(
    "name", ["auto", "max", "max_mean", "noisy_or", "log_mean_exp", "class_attention", "rank"]
)
def test_a_segment_may_be_masked_whole(segment, device, name):
    case = make_case(name, 1, 2, 3 * segment, masked=True, device=device)
    case.keywords["mask"][:, : 3 * segment // 2] = False
    truth = case.to(torch.float64).run(reference)
    assert_close(case.run(functional), truth, relative=3e-6)


@pytest.mark.parametrize("value", [2.0, float("nan")], ids=["equals", "NaN"])
@pytest.mark.parametrize(("dim", "classes"), [(2, 1), (1, 3), (1, 20)])
def test_the_largest_of_equals_in_different_segments_is_the_first(
    segment, device, dim, classes, value
):
    part = min(segment, 4096)  # what the C++ kernel looks through at a time
    borders = [part, segment, 2 * segment]
    for first in (0, *(frame for border in borders for frame in (border - 1, border))):
        frames = torch.rand(1, 3 * segment, classes, device=device)
        frames[:, [first, *range(first + part - 1, 3 * segment, part)]] = value
        x = (frames if dim == 1 else frames.mT.contiguous()).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.max_pool(x, dim=dim).sum(), x)
        by_frame = gradient if dim == 1 else gradient.mT
        assert by_frame.nonzero().tolist() == [[0, first, index] for index in range(classes)]


def frames_last(bags, classes, frames):
    return torch.empty(bags, classes, frames, device="meta")


def classes_last(bags, classes, frames):
    return torch.empty(bags, frames, classes, device="meta").mT


@pytest.mark.parametrize("layout", [frames_last, classes_last])
@pytest.mark.parametrize("shape", [(1, 2, 15_000), (8, 64, 16_000), (32, 17, 16_000)], ids=str)
def test_a_gpu_takes_few_steps_one_after_the_other_through_few_long_bags(shape, layout):
    """Forward the blocks of a segment, then as many parts as there are segments."""
    for tiling in (tiles.tile(layout(*shape)), lanes.of(layout(*shape))):
        assert tiling.segment_frames / tiling.step + tiling.segments <= 64
        assert tiling.walk_frames / tiling.step <= 32


@pytest.mark.parametrize("layout", [frames_last, classes_last])
def test_short_segments_are_several(short_segments, layout):
    """Or the tests above would join nothing in Triton's interpreter."""
    x = layout(1, 2, 3 * 256 + 13)
    assert lanes.of(x, thread_bytes=lanes.JOINED_BYTES).segments > 1
    assert tiles.tile(x).segments > 1


@pytest.mark.parametrize(("layout", "block"), [(frames_last, (16, 32)), (classes_last, (32, 4))])
def test_a_large_batch_of_clips_is_not_cut(layout, block):
    tiling = lanes.of(layout(64, 527, 400))
    assert (tiling.block_classes, tiling.block_frames) == block
    assert (tiling.segments, tiling.walks) == (1, 1)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 8, 17, 64, 527])
def test_a_block_has_no_more_classes_than_there_are(classes):
    tiling = lanes.of(classes_last(4, classes, 20_000))
    assert tiling.block_classes < 2 * classes
    assert tiling.block_classes * tiling.block_frames == 32 * tiles.NUM_WARPS * tiling.width


@pytest.mark.parametrize(
    ("shape", "dtype", "width"),
    [
        ((8, 527, 400), torch.float32, 4),
        ((8, 527, 100), torch.float32, 4),
        ((8, 527, 100), torch.bfloat16, 4),
        ((8, 527, 101), torch.float32, 1),
        ((8, 527, 96), torch.bfloat16, 8),
        ((8, 527, 400), torch.float64, 2),
    ],
    ids=str,
)
def test_a_thread_reads_as_much_at_once_as_rows_allow(shape, dtype, width):
    """Triton by itself tells only multiples of 16 apart."""
    assert lanes.of(torch.empty(shape, device="meta", dtype=dtype)).width == width


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize(
    "name",
    [
        *("exp_softmax", "power", "max", "max_mean", "noisy_or", "log_mean_exp"),
        *("class_attention", "rank"),
    ],
)
def test_a_million_frames(name, dim):
    case = make_case(name, 1, 2, 10**6, dim=dim, from_logits=True)
    with milkernels.backend("cpp"):
        ours = case.run(functional)
    assert_close(ours, case.to(torch.float64).run(reference), relative=3e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_number_of_threads_changes_no_bit(name):
    case = make_case(name, 3, 7, 40_000, masked=True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with milkernels.backend("cpp"):
                results.append(case.run(functional))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_more_than_2_to_the_31_elements():
    """The last bag lies beyond 32-bit offsets; 16-bit frames, a bag at a time in the oracle."""
    x = torch.empty(33, 65, 2**20, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[-1].uniform_()
    x[:-1].fill_(0.5)
    with milkernels.backend("cpp"):
        y = functional.exp_softmax_pool(x)
    last = Case("exp_softmax", [x[-1:].double()])
    expected = functional.exp_softmax_pool(last.x)
    assert torch.allclose(y[-1:].double(), expected, rtol=1e-2)
    assert (y[:-1] == 0.5).all()
