"""Walks over some frames of a bag's block of classes: whole blocks, then smaller ones for the rest.

What is done with a block is a step, a function that the walk is compiled for. It gets what is
`given` to the walk and the block's first frame, and is compiled for OPTION, whatever that is,
besides.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import lanes


@triton.jit
def _end_of_whole_blocks(first, last, BLOCK: tl.constexpr):
    """Where less than a whole block is left of a walk."""
    return first + (last - first) // BLOCK.step * BLOCK.step


@triton.jit
def _gather(
    state,
    given,
    first,
    last,
    WHOLE: tl.constexpr,
    STEP: tl.constexpr,
    OPTION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    for frame_start in range(first, last, BLOCK.step):
        state = STEP(state, given, frame_start, last, WHOLE, OPTION, FROM_LOGITS, MASKED, BLOCK)
    return state


@triton.jit
def gather(
    state,
    given,
    first,
    last,
    STEP: tl.constexpr,
    OPTION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The lanes' states after some more frames. STEP(state, given, frame_start, last, WHOLE,
    OPTION, FROM_LOGITS, MASKED, BLOCK) returns them after one more block, of which all frames exist
    if it is WHOLE."""
    middle = _end_of_whole_blocks(first, last, BLOCK)
    last_block: tl.constexpr = BLOCK.last
    state = _gather(state, given, first, middle, True, STEP, OPTION, FROM_LOGITS, MASKED, BLOCK)
    return _gather(state, given, middle, last, False, STEP, OPTION, FROM_LOGITS, MASKED, last_block)


@triton.jit
def _write(
    given,
    first,
    last,
    WHOLE: tl.constexpr,
    STEP: tl.constexpr,
    OPTION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    for frame_start in range(first, last, BLOCK.step):
        STEP(given, frame_start, last, WHOLE, OPTION, FROM_LOGITS, MASKED, BLOCK)


@triton.jit
def write(
    given,
    first,
    last,
    STEP: tl.constexpr,
    OPTION: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill some frames: STEP(given, frame_start, last, WHOLE, OPTION, FROM_LOGITS, MASKED, BLOCK)
    writes a block."""
    middle = _end_of_whole_blocks(first, last, BLOCK)
    last_block: tl.constexpr = BLOCK.last
    _write(given, first, middle, True, STEP, OPTION, FROM_LOGITS, MASKED, BLOCK)
    _write(given, middle, last, False, STEP, OPTION, FROM_LOGITS, MASKED, last_block)


@triton.jit
def write_gradient(
    given,
    frame_start,
    last,
    WHOLE: tl.constexpr,
    GRADIENT: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A step that writes GRADIENT(raw, known, FROM_LOGITS) of a block's raw values, 0 for masked
    frames."""
    known, x, mask, x_gradient, place = given
    inside, real = lanes.inside_and_real(mask, place, frame_start, last, BLOCK, WHOLE, MASKED)
    raw = lanes.read(x, place, frame_start, inside, BLOCK)
    to_x = GRADIENT(raw, known, FROM_LOGITS)
    if MASKED:
        to_x = tl.where(real, to_x, 0.0)
    lanes.write(x_gradient, place, frame_start, to_x, inside, BLOCK)
