"""Every Triton kernel compiles for GPUs that are not here, without spills and with wide loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from milkernels.kernels.compile import TARGETS as GPUS
from milkernels.kernels.launch import Launch

ROOT = Path(__file__).parents[1]
TARGETS = tuple(GPUS)
KERNELS = (
    {
        f"{family}_{direction}"
        for family in ("weighted_average", "maximum", "noisy_or", "log_mean_exp")
        for direction in ("forward", "merge", "backward", "bce")
    }
    | {
        *("packed_forward", "packed_merge", "packed_backward"),
        *("statistics_forward", "statistics_merge", "statistics_scores"),
        *("statistics_backward", "statistics_sum"),
        *("gated_fusion_forward", "gated_fusion_backward"),
        *("cross_entropy_loss", "cross_entropy_scale"),
        *(f"class_attention_{kernel}" for kernel in ("forward", "merge", "backward", "frames")),
        *(f"rank_{kernel}" for kernel in ("forward", "keys", "weigh", "merge", "backward")),
    }
    | {
        *(f"linear_attention_{kernel}" for kernel in ("forward", "input", "layer", "merge")),
        *(f"linear_attention_wide_{kernel}" for kernel in ("forward", "input", "layer")),
    }
)


def run(*arguments, program="benchmarks.compile_report", **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compile_report")
    path = folder / "report.json"
    result = run("--quick", "--json", str(path), TRITON_CACHE_DIR=str(folder / "cache"))
    assert path.is_file(), result.stderr
    return result, json.loads(path.read_text())


def of_target(report, target):
    return [entry for entry in report[1] if entry["target"] == target]


def named(entry):
    return f"{entry['kernel']} {entry['member']} {entry['layout']}"


def test_exit_code_says_that_all_is_well(report):
    assert report[0].returncode == 0, report[0].stderr


def expected_kernels(target):
    """Every kernel on Hopper, the main ones and the most crowded ones on the other targets."""
    if target == "sm_90":
        return KERNELS
    linear_attention = {name for name in KERNELS if name.startswith("linear_attention")}
    crowded = {
        *("statistics_forward", "class_attention_forward", "packed_forward"),
        *("weighted_average_bce", "noisy_or_bce"),
    }
    return {"weighted_average_forward", "weighted_average_backward"} | linear_attention | crowded


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles(report, target):
    entries = of_target(report, target)
    assert {entry["kernel"] for entry in entries} == expected_kernels(target)
    assert {named(entry): entry["error"] for entry in entries if entry["error"]} == {}
    assert [named(entry) for entry in entries if not entry["stores"]] == []


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_spills(report, target):
    entries = of_target(report, target)
    assert {named(entry): entry["spills"] for entry in entries if entry["spills"]} == {}
    assert {named(entry): entry["stack_bytes"] for entry in entries if entry["stack_bytes"]} == {}


def test_products_and_sums_round_apart(report):
    """But for those of matrices, whose precision is chosen."""
    entries = [entry for entry in report[1] if not entry["kernel"].startswith("linear_attention")]
    open_ones = {named(entry): entry["open_roundings"] for entry in entries}
    assert open_ones == dict.fromkeys(open_ones, 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", ["loads", "stores"])
def test_aligned_rows_move_128_bits_at_once(report, target, direction):
    touches = "reads_frames" if direction == "loads" else "writes_frames"
    entries = [entry for entry in of_target(report, target) if entry[touches]]
    assert {entry["layout"] for entry in entries} == {"classes_first", "frames_first"}
    widest = {named(entry): max(map(int, entry[direction])) for entry in entries}
    assert widest == dict.fromkeys(widest, 128)


def test_threads_wait_for_no_other_on_a_walk(report):
    """Lanes are joined once, at its end."""
    walks = [entry for entry in report[1] if entry["elements_per_thread"] and entry["loops"]]
    assert {entry["everything"] for entry in walks} == {False, True}
    # Of whole blocks, then of the last ones; what comes before sums a parameter's gradient.
    waits = {named(entry): sum(loop["waits"] for loop in entry["loops"][-2:]) for entry in walks}
    assert waits == dict.fromkeys(waits, 0)


def test_kernels_compile_where_every_size_is_1(tmp_path):
    result = run("--smallest", "--targets", "sm_90", TRITON_CACHE_DIR=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_warp_has_as_many_threads_on_every_gpu():
    """AMD's are twice as wide."""
    kernel = Launch(None, programs=1, arguments={}, num_warps=4, registers=80)
    assert kernel.options(GPUS["sm_90"]) == {
        "num_warps": 4,
        "maxnreg": 80,
        "enable_fp_fusion": False,
    }
    assert kernel.options(GPUS["gfx942"]) == {
        "num_warps": 2,
        "enable_fp_fusion": False,
    }


def test_the_interpreter_is_refused():
    result = run(TRITON_INTERPRET="1")
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["benchmarks.compile_report: unset TRITON_INTERPRET"]


def rows_of(table):
    return {line.split(" | ")[0]: line for line in table.splitlines()}


def test_the_committed_counts_are_those_of_the_kernels(tmp_path):
    """With the assembler of the Triton that is pinned."""
    if not triton.__version__.startswith("3.7."):
        pytest.skip("another assembler")
    names = ("mean", "linear_attention")
    result = run(*names, program="benchmarks.instructions", TRITON_CACHE_DIR=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    committed = rows_of((ROOT / "benchmarks" / "results" / "instructions.md").read_text())
    counted = rows_of(result.stdout)
    assert len(counted) == 12
    assert {name: committed[name] for name in counted} == counted


def test_a_pooling_that_is_not_counted_is_named():
    result = run("max", program="benchmarks.instructions")
    assert result.returncode == 2
    assert "POOLING: expected one of mean, " in result.stderr
    assert "got 'max'" in result.stderr
