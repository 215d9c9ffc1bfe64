"""Kernels of linear attention for rows that fit a tile: each program holds both weights, and reads
each of its rows once.

Tiles of the layers' outputs are (outputs, rows): warps then share out the outputs, each holds only
its own of the weights, and the products of the backward pass take them as they stand.
"""

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
def _outputs(z, weight, bias, PRECISION: tl.constexpr, COMPUTE: tl.constexpr):
    total = tl.zeros((weight.shape[0], z.shape[0]), COMPUTE)
    return product(weight, tl.trans(z), total, PRECISION) + bias[:, None]


@triton.jit
def _over_outputs(tile):
    """Sums over the outputs, of eight first: less rounding, however a sum's terms are added."""
    outputs: tl.constexpr = tile.shape[0] // 8
    return tl.sum(tl.sum(tl.reshape(tile, (outputs, 8, tile.shape[1])), 1), 0)


@triton.jit
def _average(attention, value, inside, AS_IN_CODE: tl.constexpr):
    """Weights that are not normalised, their total and the average value of each row, and each
    position's value and derivative."""
    score, value, slope = position(attention, value, AS_IN_CODE)
    peak = tl.zeros_like(score)
    if AS_IN_CODE:
        peak += tl.max(tl.where(inside, score, -float("inf")), 0)[None, :]
    weights = tl.where(inside, weight(score, peak), 0.0)
    total = _over_outputs(weights)
    average = _over_outputs(weights * value) / total
    low = tl.min(tl.where(inside, value, float("inf")), 0)
    high = tl.max(tl.where(inside, value, -float("inf")), 0)
    average = tl.where(average < low, low, average)
    return weights, total, tl.where(average > high, high, average), value, slope


@jit.kernel
def _linear_attention_forward_kernel(
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    y_ptr,
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
    """A program takes every so manieth tile of rows."""
    column = tl.arange(0, BLOCK_WIDTH)
    has_column = column < width
    att_weight = load_weight(att_weight_ptr, column, column, width, OPERAND)
    cla_weight = load_weight(cla_weight_ptr, column, column, width, OPERAND)
    att_bias = tl.load(att_bias_ptr + column, mask=has_column, other=0).to(COMPUTE)
    cla_bias = tl.load(cla_bias_ptr + column, mask=has_column, other=0).to(COMPUTE)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        z = tl.load(address, mask=(row < rows)[:, None] & has_column[None, :], other=0).to(OPERAND)
        attention = _outputs(z, att_weight, att_bias, PRECISION, COMPUTE)
        value = _outputs(z, cla_weight, cla_bias, PRECISION, COMPUTE)
        _, _, average, _, _ = _average(attention, value, has_column[:, None], AS_IN_CODE)
        tl.store(y_ptr + row, average, mask=row < rows)


@jit.kernel
def _linear_attention_backward_kernel(
    gradient_ptr,
    z_ptr,
    att_weight_ptr,
    att_bias_ptr,
    cla_weight_ptr,
    cla_bias_ptr,
    z_gradient_ptr,
    partial_ptr,
    rows,
    width,
    stride_row,
    AS_IN_CODE: tl.constexpr,
    FOR_Z: tl.constexpr,
    FOR_LAYERS: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """A program takes every so manieth tile, and keeps its part of the layers' gradients."""
    column = tl.arange(0, BLOCK_WIDTH)
    has_column = column < width
    att_weight = load_weight(att_weight_ptr, column, column, width, OPERAND)
    cla_weight = load_weight(cla_weight_ptr, column, column, width, OPERAND)
    att_bias = tl.load(att_bias_ptr + column, mask=has_column, other=0).to(COMPUTE)
    cla_bias = tl.load(cla_bias_ptr + column, mask=has_column, other=0).to(COMPUTE)
    att_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_WIDTH), COMPUTE)
    cla_weight_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_WIDTH), COMPUTE)
    att_bias_gradient = tl.zeros((BLOCK_WIDTH,), COMPUTE)
    cla_bias_gradient = tl.zeros((BLOCK_WIDTH,), COMPUTE)
    for tile in tl.range(
        tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0), disable_licm=True
    ):
        row_start = tl.cast(tile, tl.int64) * BLOCK_ROWS
        address, row = addresses(z_ptr, row_start, stride_row, column, BLOCK_ROWS)
        inside = (row < rows)[:, None] & has_column[None, :]
        z = tl.load(address, mask=inside, other=0).to(OPERAND)
        attention = _outputs(z, att_weight, att_bias, PRECISION, COMPUTE)
        value = _outputs(z, cla_weight, cla_bias, PRECISION, COMPUTE)
        weights, total, average, value, slope = _average(
            attention, value, has_column[:, None], AS_IN_CODE
        )
        gradient = tl.load(gradient_ptr + row, mask=row < rows, other=0).to(COMPUTE)
        share = weights * (gradient / total)[None, :]
        attention, value = output_gradients(share, value - average[None, :], slope, AS_IN_CODE)
        if FOR_LAYERS:
            att_bias_gradient += tl.sum(attention, 1)
            cla_bias_gradient += tl.sum(value, 1)
        attention = attention.to(OPERAND)
        value = value.to(OPERAND)
        if FOR_Z:
            z_gradient = tl.zeros((BLOCK_WIDTH, BLOCK_ROWS), COMPUTE)
            z_gradient = product(tl.trans(att_weight), attention, z_gradient, PRECISION)
            z_gradient = product(tl.trans(cla_weight), value, z_gradient, PRECISION)
            to, _ = addresses(z_gradient_ptr, row_start, width, column, BLOCK_ROWS)
            tl.store(to, tl.trans(z_gradient), mask=inside)
        if FOR_LAYERS:
            att_weight_gradient = product(attention, z, att_weight_gradient, PRECISION)
            cla_weight_gradient = product(value, z, cla_weight_gradient, PRECISION)
    if FOR_LAYERS:
        square = width * width
        part = partial_ptr + tl.program_id(0).to(tl.int64) * (2 * square + 2 * width)
        cell = column[:, None] * width + column[None, :]
        inside = has_column[:, None] & has_column[None, :]
        tl.store(part + cell, att_weight_gradient, mask=inside)
        tl.store(part + square + cell, cla_weight_gradient, mask=inside)
        tl.store(part + 2 * square + column, att_bias_gradient, mask=has_column)
        tl.store(part + 2 * square + width + column, cla_bias_gradient, mask=has_column)
