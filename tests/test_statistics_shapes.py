"""Statistics pooling in every shape: remainders of vectors, wide and narrow heads, bags that are
cut, any number of threads."""

from __future__ import annotations

import pytest
import torch
from budget import truth_of
from cases import assert_close
from combinations import every_pair
from statistics_cases import NAMES, stats_case

import milkernels
from milkernels import functional, reference
from milkernels.backends import cpp_serves_cpu


@pytest.mark.parametrize(
    ("dim", "channels", "frames"), every_pair([-1, 1], [1, 7, 16, 33], [1, 3, 16, 17, 65, 130])
)
def test_every_remainder_of_the_vectors_is_right(kernel_backend, device, dim, channels, frames):
    for name, heads in (("attention_stats", 1), ("weighted_stats", channels)):
        case = stats_case(
            name,
            2,
            channels,
            frames,
            heads,
            dim=dim,
            masked=True,
            dtype=torch.float64,
            device=device,
        )
        assert_close(case.run(functional), case.run(reference), relative=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(
    ("dim", "channels", "frames"),
    every_pair([-1, 1], [7, 8, 16, 33], [3, 16, 17, 32, 33, 65, 257, 300]),
)
@pytest.mark.parametrize("name", NAMES)
def test_so_are_heads_of_one_channel(kernel_backend, device, name, dim, channels, frames, masked):
    options = {"dim": dim, "masked": masked, "device": device}
    case = stats_case(name, 2, channels, frames, channels, **options)
    assert_close(case.run(functional), truth_of(case), relative=2e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_head_wider_than_a_tile_is_cut(monkeypatch, name, dim, masked):
    from milkernels.kernels import statistics  # noqa: PLC0415 - Triton

    monkeypatch.setattr(statistics, "MAX_WIDTH", 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"dim": dim, "masked": masked, "dtype": torch.float64, "device": device}
    case = stats_case(name, 2, 42, 37, heads=2, **options)
    with milkernels.backend("triton"):
        assert_close(case.run(functional), case.run(reference), relative=1e-13)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_long_bags_are_cut_and_merged(kernel_backend, device, name, dim):
    case = stats_case(name, 1, 4, 3000, heads=2, dim=dim, masked=True, device=device)
    assert_close(case.run(functional), truth_of(case), relative=1e-6)


@pytest.mark.skipif(not cpp_serves_cpu(), reason="the C++ extension is not there")
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_so_are_heads_of_one_channel_in_long_bags(name, dim):
    case = stats_case(name, 1, 19, 40_000, heads=19, dim=dim, masked=True)
    assert_close(case.run(functional), truth_of(case), relative=2e-6)


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_very_long_bags_lose_no_digits(name, dim):
    case = stats_case(name, 1, 4, 200_000, heads=2, dim=dim)
    case.tensors[0] += 5
    with milkernels.backend("cpp"):
        assert_close(case.run(functional), truth_of(case), relative=2e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_the_number_of_threads(name, dim, masked):
    case = stats_case(name, 2, 48, 9000, heads=3, dim=dim, masked=masked)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            with milkernels.backend("cpp"):
                results.append(case.run(functional))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))
