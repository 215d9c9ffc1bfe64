"""Large gradients on a CPU: their memory is kept when they are dropped and serves the next."""

import copy
import io
import os
import subprocess
import sys
import threading

import pytest
import torch

import milkernels
from milkernels import functional
from milkernels.kernels.cpp import extension

MIB = 1 << 20
LARGE = (4, 64, 4096)

pytestmark = pytest.mark.skipif(extension.functions is None, reason="needs the C++ extension")


@pytest.fixture(autouse=True)
def nothing_kept():
    milkernels.empty_cache()


def gradient(shape=LARGE, dtype=torch.float32, dim=-1, seed=0):
    """x's gradient, and what it should be."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator).to(dtype).requires_grad_()
    y = functional.mean_pool(x, dim=dim)
    weights = torch.rand(y.shape, generator=generator).to(dtype)
    y.backward(weights)
    truth = (weights / shape[dim]).unsqueeze(dim).expand(shape)
    return x.grad, truth


def test_a_dropped_gradient_makes_room_for_the_next():
    first, _ = gradient()
    address = first.data_ptr()
    del first
    second, truth = gradient(seed=1)
    assert second.data_ptr() == address
    torch.testing.assert_close(second, truth)


def test_a_gradient_or_a_view_of_it_is_never_given_away():
    first, truth = gradient()
    second, other = gradient(seed=1)
    view = first[2, 3]
    del first
    third, _ = gradient(seed=2)
    assert not {second.data_ptr(), third.data_ptr()} & {view.untyped_storage().data_ptr()}
    assert second.data_ptr() != third.data_ptr()
    torch.testing.assert_close(view, truth[2, 3])
    torch.testing.assert_close(second, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 2])
def test_gradients_of_one_size_share_memory_whatever_their_dtype_and_axis(dtype, dim):
    gradient()
    x, truth = gradient(LARGE, dtype, dim)
    assert x.dtype == dtype
    assert x.is_contiguous()
    torch.testing.assert_close(x, truth)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (1, 0, 2)])
def test_results_lie_as_the_tensor_they_are_like(axes):
    x = torch.empty(LARGE).permute(axes)
    like = extension.functions.empty_like(x)
    assert like.shape == x.shape
    assert like.stride() == x.stride()
    ranks = extension.functions.empty_like(x, torch.int32)
    assert ranks.dtype == torch.int32
    assert ranks.stride() == x.stride()


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.empty(8, 10, 50), None),
        (torch.empty(4, 64, 8192)[..., ::2], None),
        (torch.empty(1, 64, 1).expand(64, 64, 512), None),
        (torch.empty(0, 64, 512), None),
        (torch.empty(LARGE), torch.float64),
        (torch.empty(LARGE, device="meta"), None),
    ],
    ids=["small", "with gaps", "overlapping", "empty", "another dtype", "elsewhere"],
)
def test_what_does_not_fit_is_left_to_pytorch(x, dtype):
    before = extension.functions.taken_bytes()
    like = extension.functions.empty_like(x, dtype)
    usual = torch.empty_like(x, dtype=dtype)
    assert (like.shape, like.stride(), like.dtype) == (usual.shape, usual.stride(), usual.dtype)
    assert like.device == usual.device
    assert extension.functions.taken_bytes() == before


def test_memory_that_is_kept_can_be_given_back():
    held, _ = gradient()
    assert milkernels.empty_cache() == 0
    del held
    assert milkernels.empty_cache() == 4 * MIB
    assert milkernels.empty_cache() == 0


def test_a_much_larger_block_is_not_taken():
    large, _ = gradient((16, 64, 4096))
    address = large.data_ptr()
    del large
    small, _ = gradient((1, 64, 4096))
    assert small.data_ptr() != address


def test_gradients_are_ordinary_tensors():
    x, truth = gradient()
    x += 1
    torch.testing.assert_close(x, truth + 1)
    torch.testing.assert_close(copy.deepcopy(x), x)
    assert x.numpy().shape == LARGE
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file), x)
    assert x.share_memory_().is_shared()
    torch.testing.assert_close(x, truth + 1)


def test_gradients_accumulate_in_a_leaf():
    x = torch.rand(LARGE, requires_grad=True)
    for _ in range(3):
        functional.mean_pool(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full(LARGE, 3 / LARGE[-1]))


def test_profilers_see_the_memory():
    gradient()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        gradient()
    sizes = [event.self_cpu_memory_usage for event in profile.events()]
    assert sum(size >= 4 * MIB for size in sizes) >= 2  # x and its gradient


def test_threads_do_not_share_memory():
    wrong = []

    def work(seed):
        for step in range(10):
            x, truth = gradient(seed=10 * seed + step)
            if not torch.allclose(x, truth):
                wrong.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


PROGRAM = """
import torch, milkernels
def gradients(*frames):
    held = [torch.rand(1, 256, count, requires_grad=True) for count in frames]
    for x in held:
        milkernels.functional.mean_pool(x).sum().backward()
    return held
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(("limit", "kept"), [("0", 0), ("5", 4), ("9", 8), ("", 12)])
def test_no_more_is_kept_than_is_allowed(limit, kept):
    code = "gradients(4096, 4096, 4096); print(milkernels.empty_cache() >> 20)"
    result = run(code, MILKERNELS_KEPT_MIB=limit)
    assert (result.stdout.strip(), result.stderr) == (str(kept), "")


def test_the_longest_unused_goes_first():
    code = """
small, = gradients(4096)
large, = gradients(8192)
del small, large
gradients(16384)
print(milkernels.empty_cache() >> 20)
"""
    assert run(code, MILKERNELS_KEPT_MIB="24").stdout.strip() == "24"


@pytest.mark.parametrize("limit", ["-1", "1.5", "many", "9999999999"])
def test_a_limit_that_is_no_number_is_named(limit):
    result = run("gradients(4096)", MILKERNELS_KEPT_MIB=limit)
    assert f"MILKERNELS_KEPT_MIB: expected how many MiB to keep, got {limit}" in result.stderr


def test_a_gradient_may_outlive_everything_else():
    code = "import builtins; builtins.held = gradients(4096)"
    assert run(code).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_a_fork_have_memory_of_their_own():
    code = """
import os
milkernels.functional.mean_pool(torch.ones(1, 256, 4096)).sum()
torch.set_num_threads(1)
held, = gradients(4096)
kept, = gradients(4096)
del kept
child = os.fork()
if child == 0:
    mine, = gradients(4096)
    mine.grad.fill_(7)
    held.grad.fill_(7)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (held.grad == 1 / 4096).all()
mine, = gradients(4096)
assert (mine.grad == 1 / 4096).all()
print("done")
"""
    assert run(code, OMP_NUM_THREADS="1").stdout.strip() == "done"
