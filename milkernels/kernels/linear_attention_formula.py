"""What the Triton kernels of linear attention share: products of matrices, a position's weight and
value, the gradients of both layers' outputs, and where a tile of rows lies."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, jit

_LOG2_E = tl.constexpr(1.4426950408889634)

#: The bits of float32 that TF32 has, and half of the last one.
_TF32 = tl.constexpr(-0x2000)
_HALF_OF_TF32 = tl.constexpr(0x1000)


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
def weight(score):
    """exp(score), of a score that a peak was taken from where it could be large."""
    return tl.exp2(score * _LOG2_E)


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
def operand(x, PRECISION: tl.constexpr):
    """What products take of a matrix. Matrix units know no float32, but TF32, of which two hold all
    of its digits but one: the number rounded to it, and what that leaves."""
    if PRECISION == "tf32x3":
        bits = x.to(tl.int32, bitcast=True)
        near = ((bits + _HALF_OF_TF32) & _TF32).to(tl.float32, bitcast=True)
        return near, x - near
    else:
        return x, x


@triton.jit
def turned(x):
    """An operand's transpose."""
    near, rest = x
    return tl.trans(near), tl.trans(rest)


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """total + left · right of operands, in total's dtype. Of two in parts, the product of what both
    leave is less than what float32 rounds."""
    near, rest = left
    other_near, other_rest = right
    if PRECISION == "tf32x3":
        # Matrix units round towards 0: each tile's sum is added outside.
        part = _dot(rest, other_near, tl.zeros_like(total), "tf32")
        part = _dot(near, other_rest, part, "tf32")
        return total + _dot(near, other_near, part, "tf32")
    else:
        return _dot(near, other_near, total, PRECISION)


@triton.jit
def _dot(left, right, total, PRECISION: tl.constexpr):
    return tl.dot(left, right, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def load_weight(pointer, output, input, width, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """A block (outputs, inputs) of a weight matrix as an operand, 0 beyond it."""
    inside = (output < width)[:, None] & (input < width)[None, :]
    address = pointer + output[:, None] * width + input[None, :]
    return operand(tl.load(address, mask=inside, other=0).to(OPERAND), PRECISION)


@triton.jit
def load_bias(pointer, output, width, COMPUTE: tl.constexpr):
    """A block of a bias, beside tiles (rows, outputs)."""
    return tl.load(pointer + output, mask=output < width, other=0).to(COMPUTE)[None, :]


@triton.jit
def load_rows(address, inside, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """A tile (rows, inputs) as an operand."""
    return operand(tl.load(address, mask=inside, other=0).to(OPERAND), PRECISION)


@triton.jit
def store_statistics(statistics_ptr, row, rows, peak, total, average, AS_IN_CODE: tl.constexpr):
    """What a backward pass needs of each row, in rows of their own: only scores that a sigmoid does
    not bound have a peak."""
    inside = row < rows
    step = tl.cast(rows, tl.int64)
    if AS_IN_CODE:
        tl.store(statistics_ptr + row, peak, mask=inside)
    tl.store(statistics_ptr + step + row, total, mask=inside)
    tl.store(statistics_ptr + 2 * step + row, average, mask=inside)


@triton.jit
def gradients_of_outputs(
    attention,
    value,
    gradient_ptr,
    statistics_ptr,
    row,
    rows,
    has_output,
    AS_IN_CODE: tl.constexpr,
    WHOLE: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients of both layers' outputs (rows, outputs): 0 beyond the last row, and beyond the last
    output unless the tile is WHOLE."""
    has_row = row < rows
    step = tl.cast(rows, tl.int64)
    gradient = tl.load(gradient_ptr + row, mask=has_row, other=0).to(COMPUTE)
    total = tl.load(statistics_ptr + step + row, mask=has_row, other=1)
    average = tl.load(statistics_ptr + 2 * step + row, mask=has_row, other=0)
    score, value, slope = position(attention, value, AS_IN_CODE)
    if AS_IN_CODE:
        peak = tl.load(statistics_ptr + row, mask=has_row, other=0)
        score -= peak[:, None]
    share = weight(score) * (gradient / total)[:, None]
    if not WHOLE:
        share = tl.where(has_output, share, 0.0)
    return output_gradients(share, value - average[:, None], slope, AS_IN_CODE)


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
