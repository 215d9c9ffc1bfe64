"""Kernels of linear attention for rows longer than a tile: both layers' outputs come a block of
columns at a time, each summed over blocks of inputs."""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import jit, moments
from milkernels.kernels.linear_attention_formula import (
    addresses,
    gradients_of_outputs,
    load_bias,
    load_rows,
    load_weight,
    operand,
    position,
    product,
    store_statistics,
    turned,
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
        z = load_rows(address, inside, OPERAND, PRECISION)
        layer = load_weight(att_weight_ptr, output, column, width, OPERAND, PRECISION)
        attention = product(z, turned(layer), attention, PRECISION)
        layer = load_weight(cla_weight_ptr, output, column, width, OPERAND, PRECISION)
        value = product(z, turned(layer), value, PRECISION)
    attention += load_bias(att_bias_ptr, output, width, COMPUTE)
    value += load_bias(cla_bias_ptr, output, width, COMPUTE)
    return attention, value


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
        if AS_IN_CODE:
            higher = tl.maximum(peak, tl.max(tl.where(inside, score, -float("inf")), 1))
            rescale = tl.where(peak == higher, 1.0, weight(peak - higher))
            peak = higher
            score -= peak[:, None]
            total *= rescale
            average *= rescale
        weights = tl.where(inside, weight(score), 0.0)
        total += tl.sum(weights, 1)
        average += tl.sum(weights * value, 1)
        low = tl.minimum(low, tl.min(tl.where(inside, value, float("inf")), 1))
        high = tl.maximum(high, tl.max(tl.where(inside, value, -float("inf")), 1))
    average = moments.held(average / total, low, high)
    row = row_start + tl.arange(0, BLOCK_ROWS)
    tl.store(y_ptr + row, average, mask=row < rows)
    store_statistics(statistics_ptr, row, rows, peak, total, average, AS_IN_CODE)


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
    return gradients_of_outputs(
        attention,
        value,
        gradient_ptr,
        statistics_ptr,
        row_start + tl.arange(0, BLOCK_ROWS),
        rows,
        (output < width)[None, :],
        AS_IN_CODE,
        False,
        COMPUTE,
    )


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
        layer = load_weight(att_weight_ptr, output, column, width, OPERAND, PRECISION)
        attention = operand(attention.to(OPERAND), PRECISION)
        z_gradient = product(attention, layer, z_gradient, PRECISION)
        layer = load_weight(cla_weight_ptr, output, column, width, OPERAND, PRECISION)
        value = operand(value.to(OPERAND), PRECISION)
        z_gradient = product(value, layer, z_gradient, PRECISION)
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
        inside = (row < rows)[:, None] & (column < width)[None, :]
        z = turned(load_rows(address, inside, OPERAND, PRECISION))
        attention = operand(attention.to(OPERAND), PRECISION)
        att_weight_gradient = product(z, attention, att_weight_gradient, PRECISION)
        value = operand(value.to(OPERAND), PRECISION)
        cla_weight_gradient = product(z, value, cla_weight_gradient, PRECISION)
    square = width * width
    here = partial_ptr + part.to(tl.int64) * (2 * square + 2 * width)
    has_output = output < width
    cell = output[None, :] * width + column[:, None]
    inside = (column < width)[:, None] & has_output[None, :]
    tl.store(here + cell, att_weight_gradient, mask=inside)
    tl.store(here + square + cell, cla_weight_gradient, mask=inside)
    is_first = has_output & (program % blocks == 0)
    tl.store(here + 2 * square + output, att_bias_gradient, mask=is_first)
    tl.store(here + 2 * square + width + output, cla_bias_gradient, mask=is_first)
