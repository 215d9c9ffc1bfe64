"""Kernels of linear attention for rows that fit a tile: each program holds both weights, and reads
each of its rows once.

Tiles of the layers' outputs are (rows, outputs): a thread then has many outputs of few rows, and
hardly exchanges anything to sum over them.
"""

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
    z,
    row,
    layer,
    bias_ptr,
    output,
    width,
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """A layer's outputs. Its bias is read for each tile: it would take registers that spill."""
    bias = load_bias(bias_ptr, output, width, COMPUTE)
    total = tl.zeros((row.shape[0], output.shape[0]), COMPUTE) + bias
    return product(z, turned(layer), total, PRECISION)


@jit.kernel
def _linear_attention_forward_kernel(
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
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program takes every so manieth tile of rows."""
    column = tl.arange(0, BLOCK_WIDTH)
    has_column = (column < width)[None, :]
    att_weight = load_weight(att_weight_ptr, column, column, width, OPERAND, PRECISION)
    cla_weight = load_weight(cla_weight_ptr, column, column, width, OPERAND, PRECISION)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        z = load_rows(address, (row < rows)[:, None] & has_column, OPERAND, PRECISION)
        attention = _outputs(z, row, att_weight, att_bias_ptr, column, width, PRECISION, COMPUTE)
        value = _outputs(z, row, cla_weight, cla_bias_ptr, column, width, PRECISION, COMPUTE)
        score, value, _ = position(attention, value, AS_IN_CODE)
        low = value
        high = value
        if not WHOLE:
            score = tl.where(has_column, score, -float("inf"))
            low = tl.where(has_column, value, float("inf"))
            high = tl.where(has_column, value, -float("inf"))
        peak = tl.zeros((BLOCK_ROWS,), COMPUTE)
        if AS_IN_CODE:
            peak = tl.max(score, 1)
            score -= peak[:, None]
        weights = weight(score)
        total = tl.sum(weights, 1)
        average = tl.sum(weights * value, 1) / total
        average = moments.held(average, tl.min(low, 1), tl.max(high, 1))
        tl.store(y_ptr + row, average, mask=row < rows)
        store_statistics(statistics_ptr, row, rows, peak, total, average, AS_IN_CODE)


@jit.kernel
def _linear_attention_input_kernel(
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
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program fills the gradient of every so manieth tile of rows."""
    column = tl.arange(0, BLOCK_WIDTH)
    has_column = (column < width)[None, :]
    att_weight = load_weight(att_weight_ptr, column, column, width, OPERAND, PRECISION)
    cla_weight = load_weight(cla_weight_ptr, column, column, width, OPERAND, PRECISION)
    for tile in tl.range(
        tl.program_id(0),
        tl.cdiv(rows, BLOCK_ROWS),
        tl.num_programs(0),
        num_stages=1,
        disable_licm=True,
    ):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        inside = (row < rows)[:, None] & has_column
        z = load_rows(address, inside, OPERAND, PRECISION)
        attention, value = gradients_of_outputs(
            _outputs(z, row, att_weight, att_bias_ptr, column, width, PRECISION, COMPUTE),
            _outputs(z, row, cla_weight, cla_bias_ptr, column, width, PRECISION, COMPUTE),
            gradient_ptr,
            statistics_ptr,
            row,
            rows,
            has_column,
            AS_IN_CODE,
            WHOLE,
            COMPUTE,
        )
        z_gradient = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), COMPUTE)
        value = operand(value.to(OPERAND), PRECISION)
        z_gradient = product(value, cla_weight, z_gradient, PRECISION)
        attention = operand(attention.to(OPERAND), PRECISION)
        z_gradient = product(attention, att_weight, z_gradient, PRECISION)
        to, _ = addresses(z_gradient_ptr, row_start, width, column, BLOCK_ROWS)
        tl.store(to, z_gradient, mask=inside)


@jit.kernel
def _linear_attention_layer_kernel(
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
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """A program takes every so manieth tile of rows, and keeps its part of the gradients of some
    outputs of both layers."""
    column = tl.arange(0, BLOCK_WIDTH)
    has_column = column < width
    blocks: tl.constexpr = BLOCK_WIDTH // BLOCK_OUTPUTS
    part = tl.program_id(0) // blocks
    output = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    has_output = output < width
    att_weight = load_weight(att_weight_ptr, output, column, width, OPERAND, PRECISION)
    cla_weight = load_weight(cla_weight_ptr, output, column, width, OPERAND, PRECISION)
    att_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_OUTPUTS), COMPUTE)
    cla_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_OUTPUTS), COMPUTE)
    att_bias_gradient = tl.zeros((BLOCK_OUTPUTS,), COMPUTE)
    cla_bias_gradient = tl.zeros((BLOCK_OUTPUTS,), COMPUTE)
    for tile in tl.range(
        part,
        tl.cdiv(rows, BLOCK_ROWS),
        parts,
        num_stages=1,
        disable_licm=True,
    ):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        inside = (row < rows)[:, None] & has_column[None, :]
        z = load_rows(address, inside, OPERAND, PRECISION)
        attention, value = gradients_of_outputs(
            _outputs(z, row, att_weight, att_bias_ptr, output, width, PRECISION, COMPUTE),
            _outputs(z, row, cla_weight, cla_bias_ptr, output, width, PRECISION, COMPUTE),
            gradient_ptr,
            statistics_ptr,
            row,
            rows,
            has_output[None, :],
            AS_IN_CODE,
            WHOLE,
            COMPUTE,
        )
        att_bias_gradient += tl.sum(attention, 0)
        cla_bias_gradient += tl.sum(value, 0)
        z = turned(z)
        attention = operand(attention.to(OPERAND), PRECISION)
        att_weight_gradient = product(z, attention, att_weight_gradient, PRECISION)
        value = operand(value.to(OPERAND), PRECISION)
        cla_weight_gradient = product(z, value, cla_weight_gradient, PRECISION)
    square = width * width
    here = partial_ptr + part.to(tl.int64) * (2 * square + 2 * width)
    cell = output[None, :] * width + column[:, None]
    inside = has_column[:, None] & has_output[None, :]
    tl.store(here + cell, att_weight_gradient, mask=inside)
    tl.store(here + square + cell, cla_weight_gradient, mask=inside)
    tl.store(here + 2 * square + output, att_bias_gradient, mask=has_output)
    tl.store(here + 2 * square + width + output, cla_bias_gradient, mask=has_output)
