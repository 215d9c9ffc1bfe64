"""Kernels of linear attention for rows longer than a tile: both layers' outputs come a block of
columns at a time, each summed over blocks of inputs."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import jit
from milkernels.kernels.linear_attention_formula import (
    addresses,
    load_weight,
    output_gradients,
    position,
    product,
    weight,
)


@triton.jit
def _outputs(
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    row_start,
    output,
    rows,
    width,
    stride_row,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Both layers' outputs of a tile of rows in one block of columns."""
    attention = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), COMPUTE)
    value = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), COMPUTE)
    for start in range(0, width, BLOCK_WIDTH):
        column = start + tl.arange(0, BLOCK_WIDTH)
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        z = tl.load(address, mask=inside, other=0).to(OPERAND)
        layer = load_weight(att_weight_ptr, output, column, width, OPERAND)
        attention = product(z, tl.trans(layer), attention, PRECISION)
        layer = load_weight(cla_weight_ptr, output, column, width, OPERAND)
        value = product(z, tl.trans(layer), value, PRECISION)
    has_output = output < width
    att_bias = tl.load(att_bias_ptr + output, mask=has_output, other=0).to(COMPUTE)
    cla_bias = tl.load(cla_bias_ptr + output, mask=has_output, other=0).to(COMPUTE)
    return attention + att_bias[None, :], value + cla_bias[None, :]


@jit.kernel
def _linear_attention_wide_forward_kernel(
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    y_ptr,
    statistics_ptr,
    rows,
    width,
    stride_row,
    AS_IN_CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program walks over the columns of one tile of rows."""
    row_start = tl.program_id(0).to(tl.int64) * BLOCK_ROWS
    peak = tl.full((BLOCK_ROWS,), -float("inf"), COMPUTE)
    total = tl.zeros((BLOCK_ROWS,), COMPUTE)
    average = tl.zeros((BLOCK_ROWS,), COMPUTE)
    low = tl.full((BLOCK_ROWS,), float("inf"), COMPUTE)
    high = tl.full((BLOCK_ROWS,), -float("inf"), COMPUTE)
    for start in range(0, width, BLOCK_WIDTH):
        output = start + tl.arange(0, BLOCK_WIDTH)
        attention, value = _outputs(
            z_ptr,
            att_weight_ptr,
            att_bias_ptr,
            cla_weight_ptr,
            cla_bias_ptr,
            row_start,
            output,
            rows,
            width,
            stride_row,
            PRECISION,
            OPERAND,
            COMPUTE,
            BLOCK_ROWS,
            BLOCK_WIDTH,
        )
        inside = (output < width)[None, :]
        score, value, _ = position(attention, value, AS_IN_CODE)
        here = tl.max(tl.where(inside, score, -float("inf")), 1)
        higher = tl.maximum(peak, here)
        rescale = tl.where(peak == higher, 1.0, weight(peak, higher))
        peak = higher
        weights = tl.where(inside, weight(score, peak[:, None]), 0.0)
        total = total * rescale + tl.sum(weights, 1)
        average = average * rescale + tl.sum(weights * value, 1)
        low = tl.minimum(low, tl.min(tl.where(inside, value, float("inf")), 1))
        high = tl.maximum(high, tl.max(tl.where(inside, value, -float("inf")), 1))
    average /= total
    average = tl.where(average < low, low, average)
    average = tl.where(average > high, high, average)
    row = row_start + tl.arange(0, BLOCK_ROWS)
    has_row = row < rows
    tl.store(y_ptr + row, average, mask=has_row)
    statistics = statistics_ptr + row
    tl.store(statistics, peak, mask=has_row)
    statistics += tl.cast(rows, tl.int64)
    tl.store(statistics, total, mask=has_row)
    statistics += tl.cast(rows, tl.int64)
    tl.store(statistics, average, mask=has_row)


@triton.jit
def _output_gradients(
    gradient_ptr,
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    statistics_ptr,
    row_start,
    output,
    rows,
    width,
    stride_row,
    AS_IN_CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Gradients of both layers' outputs of a tile of rows in one block of columns."""
    attention, value = _outputs(
        z_ptr,
        att_weight_ptr,
        att_bias_ptr,
        cla_weight_ptr,
        cla_bias_ptr,
        row_start,
        output,
        rows,
        width,
        stride_row,
        PRECISION,
        OPERAND,
        COMPUTE,
        BLOCK_ROWS,
        BLOCK_WIDTH,
    )
    row = row_start + tl.arange(0, BLOCK_ROWS)
    has_row = row < rows
    statistics = statistics_ptr + row
    peak = tl.load(statistics, mask=has_row, other=0)
    statistics += tl.cast(rows, tl.int64)
    total = tl.load(statistics, mask=has_row, other=1)
    statistics += tl.cast(rows, tl.int64)
    average = tl.load(statistics, mask=has_row, other=0)
    gradient = tl.load(gradient_ptr + row, mask=has_row, other=0).to(COMPUTE)
    score, value, slope = position(attention, value, AS_IN_CODE)
    weights = weight(score, peak[:, None])
    share = weights * (gradient / total)[:, None]
    share = tl.where(has_row[:, None] & (output < width)[None, :], share, 0.0)
    return output_gradients(share, value - average[:, None], slope, AS_IN_CODE)


@jit.kernel
def _linear_attention_wide_input_kernel(
    gradient_ptr,
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    statistics_ptr,
    z_gradient_ptr,
    rows,
    width,
    stride_row,
    AS_IN_CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program fills one block of columns of the gradient of one tile of rows."""
    blocks = tl.cdiv(width, BLOCK_WIDTH)
    program = tl.program_id(0)
    row_start = (program // blocks).to(tl.int64) * BLOCK_ROWS
    column = program % blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    z_gradient = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), COMPUTE)
    for start in range(0, width, BLOCK_WIDTH):
        output = start + tl.arange(0, BLOCK_WIDTH)
        attention, value = _output_gradients(
            gradient_ptr,
            z_ptr,
            att_weight_ptr,
            att_bias_ptr,
            cla_weight_ptr,
            cla_bias_ptr,
            statistics_ptr,
            row_start,
            output,
            rows,
            width,
            stride_row,
            AS_IN_CODE,
            PRECISION,
            OPERAND,
            COMPUTE,
            BLOCK_ROWS,
            BLOCK_WIDTH,
        )
        layer = load_weight(att_weight_ptr, output, column, width, OPERAND)
        z_gradient = product(attention.to(OPERAND), layer, z_gradient, PRECISION)
        layer = load_weight(cla_weight_ptr, output, column, width, OPERAND)
        z_gradient = product(value.to(OPERAND), layer, z_gradient, PRECISION)
    address, row = addresses(z_gradient_ptr, row_start, width, column, BLOCK_ROWS)
    tl.store(address, z_gradient, mask=(row < rows)[:, None] & (column < width)[None, :])


@jit.kernel
def _linear_attention_wide_layer_kernel(
    gradient_ptr,
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    statistics_ptr,
    partial_ptr,
    rows,
    width,
    stride_row,
    parts,
    AS_IN_CODE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program fills one block of outputs by inputs of one part of both weights' gradients."""
    blocks = tl.cdiv(width, BLOCK_WIDTH)
    program = tl.program_id(0)
    part = program // blocks // blocks
    output = program // blocks % blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    column = program % blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    att_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_WIDTH), COMPUTE)
    cla_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_WIDTH), COMPUTE)
    att_bias_gradient = tl.zeros((BLOCK_WIDTH,), COMPUTE)
    cla_bias_gradient = tl.zeros((BLOCK_WIDTH,), COMPUTE)
    for tile in range(part, tl.cdiv(rows, BLOCK_ROWS), parts):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        attention, value = _output_gradients(
            gradient_ptr,
            z_ptr,
            att_weight_ptr,
            att_bias_ptr,
            cla_weight_ptr,
            cla_bias_ptr,
            statistics_ptr,
            row_start,
            output,
            rows,
            width,
            stride_row,
            AS_IN_CODE,
            PRECISION,
            OPERAND,
            COMPUTE,
            BLOCK_ROWS,
            BLOCK_WIDTH,
        )
        att_bias_gradient += tl.sum(attention, 0)
        cla_bias_gradient += tl.sum(value, 0)
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        z = tl.load(address, mask=(row < rows)[:, None] & (column < width)[None, :], other=0).to(
            OPERAND
        )
        attention = tl.trans(attention.to(OPERAND))
        att_weight_gradient = product(attention, z, att_weight_gradient, PRECISION)
        value = tl.trans(value.to(OPERAND))
        cla_weight_gradient = product(value, z, cla_weight_gradient, PRECISION)
    square = width * width
    here = partial_ptr + part.to(tl.int64) * (2 * square + 2 * width)
    has_output = output < width
    cell = output[:, None] * width + column[None, :]
    inside = has_output[:, None] & (column < width)[None, :]
    tl.store(here + cell, att_weight_gradient, mask=inside)
    tl.store(here + square + cell, cla_weight_gradient, mask=inside)
    is_first = has_output & (program % blocks == 0)
    tl.store(here + 2 * square + output, att_bias_gradient, mask=is_first)
    tl.store(here + 2 * square + width + output, cla_bias_gradient, mask=is_first)
