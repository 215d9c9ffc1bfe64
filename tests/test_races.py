"""What a thread of a Triton kernel stores, no other thread of the launch loads or stores.

All tests that run Triton in the interpreter check it, where programs and threads take turns and a
race would not show. Here are kernels that are caught.
"""

import pytest
import torch

if torch.cuda.is_available():
    pytestmark = pytest.mark.skip(reason="the interpreter checks; here kernels are compiled")

import triton
import triton.language as tl
from checked_accesses import checked_accesses

from milkernels.kernels.launch import Launch


def run(kernel, programs):
    with checked_accesses():
        Launch(kernel, programs, {"memory_ptr": torch.zeros(32)}).run()


@triton.jit
def _own_parts(memory_ptr):
    index = tl.program_id(0) * 8 + tl.arange(0, 8)
    tl.store(memory_ptr + index, tl.load(memory_ptr + 16 + index) + 1)


@triton.jit
def _element_by_element_in_place(memory_ptr):
    index = tl.program_id(0) * 8 + tl.arange(0, 8)
    tl.store(memory_ptr + index, tl.load(memory_ptr + index) + 1)


@triton.jit
def _same_value_from_all_threads(memory_ptr):
    tl.store(memory_ptr + tl.arange(0, 8) // 4, tl.full((8,), 2.0, tl.float32))


@pytest.mark.parametrize(
    ("kernel", "programs"),
    [(_own_parts, 2), (_element_by_element_in_place, 2), (_same_value_from_all_threads, 1)],
)
def test_kernels_that_store_what_no_other_thread_touches_pass(kernel, programs):
    run(kernel, programs)


@triton.jit
def _overlapping_stores(memory_ptr):
    index = tl.program_id(0) * 7 + tl.arange(0, 8)
    tl.store(memory_ptr + index, index.to(tl.float32))


@triton.jit
def _read_of_a_former_program(memory_ptr):
    index = tl.program_id(0) * 8 + tl.arange(0, 8)
    tl.store(memory_ptr + 8 + index, tl.load(memory_ptr + index) + 1)


@triton.jit
def _read_of_a_later_program(memory_ptr):
    index = tl.program_id(0) * 8 + tl.arange(0, 8)
    tl.store(memory_ptr + index, tl.load(memory_ptr + 8 + index) + 1)


@triton.jit
def _scratch_without_a_barrier(memory_ptr):
    index = tl.arange(0, 8)
    tl.store(memory_ptr + index, index.to(tl.float32))
    tl.store(memory_ptr + 8 + index, tl.load(memory_ptr + 7 - index))


@triton.jit
def _reversed_in_place(memory_ptr):
    index = tl.arange(0, 8)
    tl.store(memory_ptr + index, tl.load(memory_ptr + 7 - index))


@triton.jit
def _sum_of_all_in_place(memory_ptr):
    index = tl.arange(0, 8)
    total = tl.sum(tl.load(memory_ptr + tl.arange(0, 16)))
    tl.store(memory_ptr + index, tl.load(memory_ptr + index) / total)


@triton.jit
def _two_values_at_one_place(memory_ptr):
    index = tl.arange(0, 8)
    tl.store(memory_ptr + index // 2, index.to(tl.float32))


@pytest.mark.parametrize(
    ("kernel", "programs", "message"),
    [
        (_overlapping_stores, 2, "program 1 stores twice"),
        (_read_of_a_former_program, 2, "program 1 loads what this launch stores"),
        (_read_of_a_later_program, 2, "program 1 stores what this launch loads"),
        (_scratch_without_a_barrier, 1, "program 0 loads what this launch stores"),
        (_reversed_in_place, 1, "program 0 stores what this launch loads"),
        (_sum_of_all_in_place, 1, "program 0 stores what this launch loads"),
        (_two_values_at_one_place, 1, "program 0 stores two values at once"),
    ],
)
def test_kernels_that_depend_on_an_order_are_caught(kernel, programs, message):
    with pytest.raises(Exception, match=f"RaceError.*{kernel.__name__}: {message}"):
        run(kernel, programs)
