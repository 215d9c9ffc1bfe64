"""What the Triton kernels of linear attention share: a position's weight and value, the gradients
of both layers' outputs, and where a tile of rows lies."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, jit

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _sigmoid(total):
    """σ and 1 - σ of a layer's output: a sum of products, whose own rounding is larger than what a
    plain exp2 adds, and which leaves no registers for more."""
    return formula.sigmoid(total, tl.exp2(-tl.abs(total) * _LOG2_E))


@triton.jit
def position(attention, value, AS_IN_CODE: tl.constexpr):
    """Log of the weight, value, and the derivative that the sigmoid brings: to the
    attention branch in the paper's form, to the class branch in its authors' code."""
    if AS_IN_CODE:
        near, far = _sigmoid(value)
        return attention, near, near * far
    else:
        near, far = _sigmoid(attention)
        return near, value, near * far


@triton.jit
def weight(score, peak):
    """exp(score - peak)."""
    return tl.exp2((score - peak) * _LOG2_E)


@triton.jit
def output_gradients(share, residual, slope, AS_IN_CODE: tl.constexpr):
    """Gradients of the attention and of the class layer's outputs, from a position's share of the
    row's gradient and its value less the average."""
    if AS_IN_CODE:
        return share * residual, share * slope
    else:
        return share * residual * slope, share


@triton.jit
def addresses(pointer, row_start, stride_row, column, BLOCK_ROWS: tl.constexpr):
    """Of a (BLOCK_ROWS, columns) tile, and of its rows alone."""
    row = tl.cast(row_start, tl.int64) + tl.arange(0, BLOCK_ROWS)
    return pointer + (row * stride_row)[:, None] + column[None, :], row


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """total + left · right, in total's dtype."""
    return tl.dot(left, right, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def load_weight(pointer, output, input, width, OPERAND: tl.constexpr):
    """A block (outputs, inputs) of a weight matrix, 0 beyond it."""
    inside = (output < width)[:, None] & (input < width)[None, :]
    return tl.load(pointer + output[:, None] * width + input[None, :], mask=inside, other=0).to(
        OPERAND
    )


@jit.kernel
def _linear_attention_merge_kernel(
    partial_ptr,
    att_weight_gradient_ptr,
    att_bias_gradient_ptr,
    cla_weight_gradient_ptr,
    cla_bias_gradient_ptr,
    parts,
    width,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Add the parts' gradients of both layers, in order: weights, then biases."""
    square = width * width
    cells = 2 * square + 2 * width
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    total = tl.zeros((BLOCK_CELLS,), partial_ptr.dtype.element_ty)
    for start in range(0, parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        inside = (part < parts)[:, None] & (cell < cells)[None, :]
        address = partial_ptr + part.to(tl.int64)[:, None] * cells + cell[None, :]
        total += tl.sum(tl.load(address, mask=inside, other=0), 0)
    tl.store(att_weight_gradient_ptr + cell, total, mask=cell < square)
    cell -= square
    tl.store(cla_weight_gradient_ptr + cell, total, mask=(cell >= 0) & (cell < square))
    cell -= square
    tl.store(att_bias_gradient_ptr + cell, total, mask=(cell >= 0) & (cell < width))
    cell -= width
    tl.store(cla_bias_gradient_ptr + cell, total, mask=(cell >= 0) & (cell < width))
