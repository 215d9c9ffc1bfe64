"""Attention over a row by two linear layers in Triton: how its kernels are launched.

Rows of up to `family.NARROW_ROW` positions go to kernels that hold both weights, whose backward
pass reads z once for its own gradient and once for the layers'. Longer ones go to kernels that walk
over blocks of the weights, which lie in the second-level cache: there each block of rows reads both
weights, and the backward pass computes the layers again for each block of columns that it fills.
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
from milkernels.kernels.launch import Launch, shared_memory


@dataclass(frozen=True)
class Tile:
    """Rows of a tile, and the warps that share it."""

    rows: int
    warps: int

    def count(self, rows: int) -> int:
        return triton.cdiv(rows, self.rows)

    def launch(self, kernel: Any, programs: int, arguments: dict[str, Any], **more: Any) -> Launch:
        filled = {**arguments, "BLOCK_ROWS": self.rows}
        return Launch(kernel, programs, filled, self.warps, fuses=True, **more)


#: Columns of a block of a long row (of float64 fewer: more would spill), and the fewest of a matrix
#: that Triton multiplies.
_BLOCK_WIDTH = 32
_LEAST_WIDTH = 16

#: Programs: enough for each processor of a large GPU. Those that sum the layers' gradients over
#: their part of the rows are so few that what they write is little beside what they read.
_PROGRAMS = 264
_MOST_PARTS = 132
_FEWEST_PARTS = 64
_ROWS_PER_POSITION = 32

_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}

#: Tiles of narrow rows: forward, for the gradient of z, and for those of the layers, of which a
#: program has half of the outputs, as all would spill. Where products take float32 in parts and
#: from registers, less fits.
_TILE = Tile(64, 4)
_INPUT_TILE = Tile(128, 8)
_LAYER_TILE = Tile(64, 4)
_TILE_IN_REGISTERS = Tile(32, 4)

#: Tiles of long rows, and the registers that a thread may have for them.
_WIDE_TILE = Tile(16, 4)
_WIDE_LAYER_TILE = Tile(16, 8)
_REGISTERS = 255

#: What the gradient of narrow z takes of shared memory: both weights, in both orders.
_INPUT_BYTES = 144 * 1024

_MERGE_PARTS = 16
_MERGE_CELLS = 64


def forward(
    z: Tensor, layers: list[Tensor], variant: str, y: Tensor, statistics: Tensor
) -> tuple[list[Launch], None]:
    """The launch that fills the values (rows,) and statistics (3 · rows,) of z (rows, L), each row
    contiguous.

    `layers`: weight and bias of the attention layer, then of the class layer.
    """
    arguments = {**_arguments(z, layers, variant, statistics), "y_ptr": y}
    if _is_narrow(z):
        return [_narrow(narrow._linear_attention_forward_kernel, _TILE, z, arguments)], None
    kernel = wide._linear_attention_wide_forward_kernel
    return [_wide(kernel, _WIDE_TILE, _WIDE_TILE.count(z.shape[0]), z, arguments)], None


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
    arguments = {**_arguments(z, layers, variant, statistics), "gradient_ptr": gradient}
    launches = []
    if z_gradient is not None:
        launches.append(_input_launch(z, {**arguments, "z_gradient_ptr": z_gradient}))
    if any(tensor is not None for tensor in layer_gradients):
        launch, partial = _layer_launch(z, arguments)
        launches += [launch, _merge(partial, layers, layer_gradients)]
    return launches


def _input_launch(z: Tensor, arguments: dict[str, Any]) -> Launch:
    memory = shared_memory(z.device)
    parted = arguments["PRECISION"] == "tf32x3" and memory is not None and memory < _INPUT_BYTES
    if _is_narrow(z) and not parted:
        return _narrow(narrow._linear_attention_input_kernel, _INPUT_TILE, z, arguments)
    rows, width = z.shape
    programs = _WIDE_TILE.count(rows) * triton.cdiv(width, _block_width(z))
    return _wide(wide._linear_attention_wide_input_kernel, _WIDE_TILE, programs, z, arguments)


def _layer_launch(z: Tensor, arguments: dict[str, Any]) -> tuple[Launch, Tensor]:
    """And the memory for each part's gradients of both layers: weights, then biases."""
    rows, width = z.shape
    if _is_narrow(z):
        wanted = min(max(rows // (_ROWS_PER_POSITION * width), _FEWEST_PARTS), _MOST_PARTS)
        parts = min(_LAYER_TILE.count(rows), wanted)
    else:
        blocks = triton.cdiv(width, _block_width(z)) ** 2
        parts = min(_WIDE_LAYER_TILE.count(rows), max(_PROGRAMS // blocks, 1))
    cells = 2 * width * (width + 1)
    partial = z.new_empty((parts, cells), dtype=tiles.arithmetic_dtype(z))
    filled = {**arguments, "partial_ptr": partial, "parts": parts}
    if _is_narrow(z):
        kernel = narrow._linear_attention_layer_kernel
        filled["BLOCK_OUTPUTS"] = max(_narrow_block(z) // 2, _LEAST_WIDTH)
        return _narrow(kernel, _LAYER_TILE, z, filled), partial
    kernel = wide._linear_attention_wide_layer_kernel
    return _wide(kernel, _WIDE_LAYER_TILE, parts * blocks, z, filled), partial


def _narrow(kernel: Any, tile: Tile, z: Tensor, arguments: dict[str, Any]) -> Launch:
    block = _narrow_block(z)
    filled = {**arguments, "BLOCK_WIDTH": block, "WHOLE": z.shape[1] == block}

    def launch(tile: Tile, **more: Any) -> Launch:
        programs = min(tile.count(z.shape[0]), _PROGRAMS)
        if "parts" in filled:
            programs = filled["parts"] * (block // filled["BLOCK_OUTPUTS"])
        return tile.launch(kernel, programs, filled, **more)

    if filled["PRECISION"] != "tf32x3":
        return launch(tile)
    few, half = launch(_TILE_IN_REGISTERS), launch(_TILE)
    return launch(tile, others={8: few, 10: half, 11: half, 12: few})


def _wide(kernel: Any, tile: Tile, programs: int, z: Tensor, arguments: dict[str, Any]) -> Launch:
    filled = {**arguments, "BLOCK_WIDTH": _block_width(z)}
    return tile.launch(kernel, programs, filled, registers=_REGISTERS)


def _is_narrow(z: Tensor) -> bool:
    """Whether programs hold the weights. Those of float64 would leave no room."""
    return z.shape[1] <= NARROW_ROW and z.dtype != torch.float64


def _narrow_block(z: Tensor) -> int:
    return max(triton.next_power_of_2(z.shape[1]), _LEAST_WIDTH)


def _block_width(z: Tensor) -> int:
    return _LEAST_WIDTH if z.dtype == torch.float64 else _BLOCK_WIDTH


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


def _arguments(z: Tensor, layers: list[Tensor], variant: str, statistics: Tensor) -> dict[str, Any]:
    rows, width = z.shape
    layers = [parameter.contiguous() for parameter in layers]
    return {
        "z_ptr": z,
        **{f"{name}_ptr": tensor for name, tensor in zip(_LAYERS, layers, strict=True)},
        "statistics_ptr": statistics,
        "rows": rows,
        "width": width,
        "stride_row": z.stride(0),
        "AS_IN_CODE": variant == "code",
        "PRECISION": _precision(z),
        "OPERAND": _operand(z),
        "COMPUTE": tl.float64 if z.dtype == torch.float64 else tl.float32,
    }


def _precision(z: Tensor) -> str:
    """How float32 is multiplied: in TF32 where PyTorch's own products of matrices may be, else to
    its own precision. NVIDIA's matrix units reach that with three products, AMD's with one."""
    if z.dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3" if torch.version.hip is None else "ieee"


def _operand(z: Tensor) -> tl.dtype:
    """What matrices are multiplied in: z's dtype, but for the interpreter's bfloat16, which its dot
    takes for whole numbers."""
    if z.dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return _TYPES[z.dtype]
