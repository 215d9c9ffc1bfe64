"""Attention over a row by two linear layers in Triton: how its kernels are launched.

Rows of up to `family.NARROW_ROW` positions go to kernels that hold both weights and read each row
once. Longer ones go to kernels that walk over blocks of the weights, which lie in the second-level
cache: there each block of rows reads both weights, and the backward pass computes the layers again
for each block of columns that it fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.family import NARROW_ROW
from milkernels.kernels import linear_attention_formula as shared
from milkernels.kernels import linear_attention_narrow as narrow
from milkernels.kernels import linear_attention_wide as wide
from milkernels.kernels import tiles
from milkernels.kernels.launch import Launch


@dataclass(frozen=True)
class Tile:
    """Rows of a tile, and the warps that share it."""

    rows: int
    warps: int

    def count(self, rows: int) -> int:
        return triton.cdiv(rows, self.rows)

    def programs(self, rows: int, width: int) -> int:
        """From the shape alone, so that results repeat."""
        wanted = min(max(rows // (_ROWS_PER_POSITION * width), _FEWEST_PROGRAMS), _MOST_PROGRAMS)
        return min(self.count(rows), wanted)

    def launch(self, kernel: Any, programs: int, arguments: dict[str, Any]) -> Launch:
        arguments = {**arguments, "BLOCK_ROWS": self.rows}
        return Launch(kernel, programs, arguments, self.warps, fuses=True)


#: Columns of a block of a long row.
_BLOCK_WIDTH = 32

#: Programs: enough for each processor of a large GPU where rows are many, and then so few that what
#: each reads (the weights) and writes (its part of their gradients) is little beside its rows.
_MOST_PROGRAMS = 264
_FEWEST_PROGRAMS = 64
_ROWS_PER_POSITION = 48

_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


#: A tile of rows as the matrix units take it. NVIDIA's have no full precision: there products run
#: from registers, which only smaller tiles do not spill, and only apart for z and for the layers.
#: They are then bound by arithmetic, and reading z once more costs nothing.
_TILE = Tile(32, 4)
_FULL_TILE = Tile(16, 8)
_FULL_LAYER_TILE = Tile(16, 16)
_WIDE_TILE = Tile(16, 8)

_MERGE_PARTS = 16
_MERGE_CELLS = 64


def forward(
    z: Tensor, layers: list[Tensor], variant: str, y: Tensor, statistics: Tensor
) -> tuple[list[Launch], None]:
    """The launch that fills the values (rows,) of z (rows, L), each row contiguous, and for rows
    that are not narrow the statistics (3 · rows,).

    `layers`: weight and bias of the attention layer, then of the class layer.
    """
    rows, width = z.shape
    tile = _FULL_TILE if _is_full(z) else _TILE
    arguments = {**_arguments(z, layers, variant), "y_ptr": y}
    if width <= NARROW_ROW:
        kernel, programs = narrow._linear_attention_forward_kernel, tile.programs(rows, width)
    else:
        tile = _WIDE_TILE
        kernel, programs = wide._linear_attention_wide_forward_kernel, tile.count(rows)
        arguments["statistics_ptr"] = statistics
    return [tile.launch(kernel, programs, arguments)], None


def backward(
    gradient: Tensor,
    z: Tensor,
    layers: list[Tensor],
    statistics: Tensor,
    variant: str,
    z_gradient: Tensor | None,
    layer_gradients: list[Tensor | None],
) -> list[Launch]:
    """The launches that fill the gradients that are given."""
    narrow_rows = z.shape[1] <= NARROW_ROW
    build = _narrow_backward if narrow_rows else _wide_backward
    arguments = {**_arguments(z, layers, variant), "gradient_ptr": gradient}
    if not narrow_rows:
        arguments["statistics_ptr"] = statistics
    for_layers = any(tensor is not None for tensor in layer_gradients)
    launches, partial = build(z, arguments, z_gradient, for_layers)
    if for_layers:
        launches.append(_merge(partial, layers, layer_gradients))
    return launches


def _narrow_backward(
    z: Tensor, arguments: dict[str, Any], z_gradient: Tensor | None, for_layers: bool
) -> tuple[list[Launch], Tensor]:
    rows, width = z.shape
    full = _is_full(z)
    layer_tile = _FULL_LAYER_TILE if full else _TILE
    parts = layer_tile.programs(rows, width)
    partial = _partial(z, parts if for_layers else 0)

    def launch(tile: Tile, for_z: bool, for_layers: bool) -> Launch:
        kernel, programs = narrow._linear_attention_backward_kernel, tile.programs(rows, width)
        filled = {
            **arguments,
            "z_gradient_ptr": z_gradient if for_z else z,
            "partial_ptr": partial if for_layers else z,
            "FOR_Z": for_z,
            "FOR_LAYERS": for_layers,
        }
        return tile.launch(kernel, programs, filled)

    for_z = z_gradient is not None
    if full and for_z and for_layers:
        return [launch(_FULL_TILE, True, False), launch(layer_tile, False, True)], partial
    tile = layer_tile if for_layers or not full else _FULL_TILE
    return [launch(tile, for_z, for_layers)], partial


def _wide_backward(
    z: Tensor, arguments: dict[str, Any], z_gradient: Tensor | None, for_layers: bool
) -> tuple[list[Launch], Tensor]:
    rows, width = z.shape
    tile = _WIDE_TILE
    blocks = triton.cdiv(width, _BLOCK_WIDTH)
    parts = min(tile.count(rows), max(_MOST_PROGRAMS // blocks**2, 1))
    partial = _partial(z, parts if for_layers else 0)
    launches = []
    if z_gradient is not None:
        kernel = wide._linear_attention_wide_input_kernel
        filled = {**arguments, "z_gradient_ptr": z_gradient}
        launches.append(tile.launch(kernel, tile.count(rows) * blocks, filled))
    if for_layers:
        kernel = wide._linear_attention_wide_layer_kernel
        filled = {**arguments, "partial_ptr": partial, "parts": parts}
        launches.append(tile.launch(kernel, parts * blocks**2, filled))
    return launches, partial


def _merge(partial: Tensor, layers: list[Tensor], layer_gradients: list[Tensor | None]) -> Launch:
    parts, cells = partial.shape
    filled = [
        # All four come together: what nobody needs is dropped.
        partial.new_empty(layer.shape) if given is None else given
        for layer, given in zip(layers, layer_gradients, strict=True)
    ]
    arguments = {
        "partial_ptr": partial,
        **{f"{name}_gradient_ptr": tensor for name, tensor in zip(_LAYERS, filled, strict=True)},
        "parts": parts,
        "width": layers[0].shape[0],
        "BLOCK_PARTS": _MERGE_PARTS,
        "BLOCK_CELLS": _MERGE_CELLS,
    }
    kernel = shared._linear_attention_merge_kernel
    return Launch(kernel, triton.cdiv(cells, _MERGE_CELLS), arguments)


_LAYERS = ("att_weight", "att_bias", "cla_weight", "cla_bias")


def _arguments(z: Tensor, layers: list[Tensor], variant: str) -> dict[str, Any]:
    rows, width = z.shape
    layers = [parameter.contiguous() for parameter in layers]
    return {
        "z_ptr": z,
        **{f"{name}_ptr": tensor for name, tensor in zip(_LAYERS, layers, strict=True)},
        "rows": rows,
        "width": width,
        "stride_row": z.stride(0),
        "AS_IN_CODE": variant == "code",
        "PRECISION": _precision(z),
        "OPERAND": _operand(z),
        "COMPUTE": tl.float64 if z.dtype == torch.float64 else tl.float32,
        "BLOCK_WIDTH": (
            max(triton.next_power_of_2(width), 16) if width <= NARROW_ROW else _BLOCK_WIDTH
        ),
    }


def _is_full(z: Tensor) -> bool:
    """Whether products are in a precision that the matrix units do not have: AMD's have float32."""
    if z.dtype == torch.float32:
        return torch.version.hip is None and _precision(z) == "ieee"
    return z.dtype == torch.float64


def _precision(z: Tensor) -> str:
    """How float32 is multiplied: as PyTorch's own products of matrices are."""
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and z.dtype == torch.float32 else "ieee"


def _operand(z: Tensor) -> tl.dtype:
    """What matrices are multiplied in: z's dtype, but for the interpreter's bfloat16, which its dot
    takes for whole numbers."""
    if z.dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return _TYPES[z.dtype]


def _partial(z: Tensor, parts: int) -> Tensor:
    """Memory for each part's gradients of both layers: weights, then biases."""
    width = z.shape[1]
    return z.new_empty((parts, 2 * width * (width + 1)), dtype=tiles.arithmetic_dtype(z))
