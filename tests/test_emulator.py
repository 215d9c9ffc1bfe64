"""What Triton compiles is executed as a GPU would, and what it must not do is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stress.emulator.machine import Machine
from stress.emulator.memory import GlobalMemory
from stress.emulator.parse import PtxError, parse
from stress.emulator.steps import step_of
from stress.emulator.values import Approximations

THREADS = 64


def kernel(body: str) -> str:
    """A kernel of `x` and `n`: %rd2 is the address of a thread's number, %p1 says if it has one."""
    return f""".visible .entry a_kernel(
	.param .u64 .ptr .global .align 1 x,
	.param .u32 n
)
{{
	.reg .pred %p<5>;
	.reg .b32 %r<9>;
	.reg .b64 %rd<5>;
	ld.param.b64 %rd1, [x];
	ld.param.b32 %r1, [n];
	mov.u32 %r2, %tid.x;
	mad.wide.s32 %rd2, %r2, 4, %rd1;
	setp.lt.s32 %p1, %r2, %r1;
{body}
	ret;
}}
"""


def run(body: str, x: torch.Tensor, shared: int = 0, share: float = 0.0) -> torch.Tensor:
    """x after one program of 64 threads."""
    machine = Machine(parse(kernel(body)), THREADS, 1, step_of, Approximations(share))
    first = x.data_ptr()
    memory = GlobalMemory([(first, first + x.nbytes)])
    machine.run(1, [first, len(x)], memory, shared)
    return x


def test_threads_without_a_number_leave_memory_alone():
    body = """
	@%p1 ld.global.b32 { %r3 }, [ %rd2 + 0 ];
	add.f32 %r3, %r3, 0f3F800000;
	@%p1 st.global.b32 [ %rd2 + 0 ], { %r3 };"""
    whole = torch.zeros(THREADS)
    run(body, whole[:50])
    assert whole.tolist() == [1.0] * 50 + [0.0] * 14


def test_a_thread_beyond_the_tensor_is_refused():
    with pytest.raises(PtxError, match=r"a_kernel: st\.global.*14 accesses are of no tensor"):
        run("	st.global.b32 [ %rd2 + 0 ], { %r1 };", torch.zeros(50))


def test_an_unaligned_vector_is_refused():
    body = "	@%p1 ld.global.v2.b32 { %r3, %r4 }, [ %rd2 + 4 ];"
    with pytest.raises(PtxError, match="no multiple of the 8 bytes"):
        run(body, torch.zeros(1))


def test_threads_meet_at_a_barrier():
    """Each stores in shared memory and reads what the thread opposite has stored."""
    body = """
	shl.b32 %r3, %r2, 2;
	mov.b32 %r4, global_smem;
	add.s32 %r3, %r3, %r4;
	st.shared.b32 [%r3], %r2;
	bar.sync 0;
	xor.b32 %r5, %r3, 252;
	ld.shared.b32 %r6, [%r5];
	cvt.rn.f32.s32 %r6, %r6;
	st.global.b32 [%rd2], %r6;"""
    assert run(body, torch.zeros(THREADS), shared=256).tolist() == list(range(63, -1, -1))
    with pytest.raises(PtxError, match="beyond the program's 128 bytes of shared memory"):
        run(body, torch.zeros(THREADS), shared=128)


def test_threads_that_part_meet_again_before_a_shuffle():
    body = """
	setp.lt.s32 %p2, %r2, 7;
	mov.b32 %r3, 0f00000000;
	@%p2 bra $L__later;
	mov.b32 %r3, 0f40000000;
$L__join:
	shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
	st.global.b32 [%rd2], %r4;
	ret;
$L__later:
	mov.b32 %r3, 0f3F800000;
	bra.uni $L__join;"""
    expected = np.where(np.arange(THREADS) < 7, 1.0, 2.0)[np.arange(THREADS) ^ 1]
    assert run(body, torch.zeros(THREADS)).tolist() == expected.tolist()


def test_exp2_gives_0_for_what_is_smaller_than_a_normal_number():
    body = """
	ld.global.b32 %r3, [%rd2];
	ex2.approx.ftz.f32 %r3, %r3;
	st.global.b32 [%rd2], %r3;"""
    x = torch.linspace(-140, -110, THREADS)
    assert torch.equal(run(body, x.clone()) == 0, x < -126)


def test_approximations_are_off_by_no_more_than_is_documented():
    body = """
	ld.global.b32 %r3, [%rd2];
	ex2.approx.ftz.f32 %r3, %r3;
	st.global.b32 [%rd2], %r3;"""
    x = torch.linspace(-3.3, 3.1, THREADS)
    off = (run(body, x.clone(), share=1.0).double() / x.double().exp2() - 1).abs()
    eps = torch.finfo(torch.float32).eps
    assert eps < 2 * off.max() <= 4 * eps
    assert (run(body, x.clone()).double() / x.double().exp2() - 1).abs().max() <= eps / 2


def test_an_unknown_instruction_is_named():
    with pytest.raises(PtxError, match=r"a_kernel: not emulated: tanh\.approx\.f32 %r3, %r3"):
        run("	tanh.approx.f32 %r3, %r3;", torch.zeros(THREADS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on a GPU")
@pytest.mark.parametrize(
    ("target", "chosen", "tests"),
    [
        ("sm_90", "errors_stay and -1-True-torch.float32", ["kernels"]),
        ("sm_90", "not_grow and 1000", ["kernels", "statistics"]),
        ("sm_90", "errors_stay and float32", ["linear_attention", "statistics", "gated_fusion"]),
        ("sm_90", "many_frames and 100", ["saturated_loss"]),
        ("sm_90", "as_if_it_were_alone and (max_mean or noisy_or or auto)", ["packed"]),
        ("sm_80", "errors_stay and paper", ["linear_attention"]),
    ],
)
def test_what_is_compiled_gives_the_numbers_that_the_source_gives(target, chosen, tests):
    root = Path(__file__).parents[1]
    command = ["stress.emulate", "--target", target, "-q", "-k", f"triton and {chosen}"]
    files = [f"tests/test_{name}.py" for name in tests]
    result = subprocess.run(
        [sys.executable, "-m", *command, *files],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split("stress.emulate: ")[1].split()[0]) > 10
