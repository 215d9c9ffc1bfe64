"""How (bags, classes, frames) tensors of any strides are cut into tiles, which kernels see at once.

Strides travel as tuples in the order (bag, class, frame).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Elements of a tile: eight for each thread of four warps. Twice as many spill registers.
TILE_ELEMENTS = 1024
NUM_WARPS = 4

#: Fewer programs leave a large GPU idle: bags are then cut into segments, until there are that many
#: or a segment has few tiles.
FEW_PROGRAMS = 512
_MANY_PROGRAMS = 1024
SEGMENT_TILES = 8

#: Frames that one program of a backward pass walks through, where there are many: what it reads
#: once for each bag and class is then little beside them.
WALK_FRAMES = 1024

_INT32_LIMIT = 2**31

#: What divides a number that Triton counts as aligned.
ALIGNED_FRAMES = 16

#: Bytes that one instruction of a thread reads at most.
_WIDEST_ACCESS = 16

#: Shapes and strides of (bags, classes, frames) tensors.
Layouts = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@triton.jit
def multiple(number, FACTOR: tl.constexpr):
    """A number of which the compiler sees that it is a multiple of the factor: Triton itself tells
    only multiples of 16 apart, and would read rows of 100 frames one by one."""
    return number // FACTOR * FACTOR


@triton.jit
def pointers(
    pointer,
    bag,
    class_start,
    frame_start,
    strides,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr = 1,
):
    """Addresses of a (BLOCK_CLASSES, BLOCK_FRAMES) tile: its first in 64 bits, the offsets from
    there in 64 bits only if WIDE. The strides of bags and classes are multiples of ALIGNED."""
    stride_bag, stride_class, stride_frame = strides
    stride_bag = multiple(stride_bag, ALIGNED)
    stride_class = multiple(stride_class, ALIGNED)
    first = (
        pointer
        + tl.cast(bag, tl.int64) * stride_bag
        + tl.cast(class_start, tl.int64) * stride_class
        + tl.cast(frame_start, tl.int64) * stride_frame
    )
    in_class = tl.arange(0, BLOCK_CLASSES)[:, None]
    in_frame = tl.arange(0, BLOCK_FRAMES)[None, :]
    if WIDE:
        in_class = in_class.to(tl.int64)
        in_frame = in_frame.to(tl.int64)
    return first + in_class * stride_class + in_frame * stride_frame


@triton.jit
def inside_and_real(
    has_class,
    frame_start,
    last_frame,
    mask_ptr,
    bag,
    mask_strides,
    BLOCK_FRAMES: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGNED: tl.constexpr = 1,
):
    """Which elements of a tile exist, and which of those are not masked. The last frame's number is
    a multiple of ALIGNED."""
    frame = frame_start + tl.arange(0, BLOCK_FRAMES)
    has_frame = frame < multiple(last_frame, ALIGNED)
    inside = has_class[:, None] & has_frame[None, :]
    real = inside
    if MASKED:
        stride_bag, stride_frame = mask_strides
        address = mask_ptr + tl.cast(bag, tl.int64) * stride_bag
        address += frame.to(tl.int64) * stride_frame
        real = inside & (tl.load(address, mask=has_frame, other=0) != 0)[None, :]
    return inside, real


@triton.jit
def forward_walk(bags, classes, frames, segment_frames, BLOCK_CLASSES: tl.constexpr):
    """What a forward program walks: bag, segment, first of its block of classes, and the segment's
    first and last frame."""
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    program = tl.program_id(0)
    bag = program // class_blocks % bags
    segment = program // class_blocks // bags
    first = segment * segment_frames
    last = tl.minimum(first + segment_frames, frames)
    return bag, segment, program % class_blocks * BLOCK_CLASSES, first, last


@triton.jit
def backward_walk(program, classes, frames, walk_frames, BLOCK_CLASSES: tl.constexpr):
    """What a backward program walks: bag, first of its block of classes, first and last frame."""
    walks = tl.cdiv(frames, walk_frames)
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    bag = program // walks // class_blocks
    first = program % walks * walk_frames
    last = tl.minimum(first + walk_frames, frames)
    return bag, program // walks % class_blocks * BLOCK_CLASSES, first, last


def layouts(*tensors: Tensor | None) -> Layouts:
    return tuple((tensor.shape, tensor.stride()) for tensor in tensors if tensor is not None)


def common_width(found: Layouts, dtype: torch.dtype, across: bool) -> int:
    """Elements that one access can take of each tensor: a power of two. `across` says that the
    classes are the contiguous axis."""
    contiguous, other = (1, 2) if across else (2, 1)
    if any(strides[contiguous] != 1 for _, strides in found):
        return 1
    width = _WIDEST_ACCESS // dtype.itemsize
    for shape, strides in found:
        for number in (strides[0], strides[other], shape[contiguous]):
            while number % width:
                width //= 2
    return width


def aligned(x: Tensor, *others: Tensor | None) -> int:
    """What divides rows of contiguous frames and what lies between them."""
    if x.stride(1) < x.stride(2):
        return 1
    return common_width(layouts(x, *others), x.dtype, across=False)


def inputs(x: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """The arguments of a kernel that reads frames x (bags, classes, frames) and their mask."""
    bags, classes, frames = x.shape
    return {
        "x_ptr": x,
        "mask_ptr": x if mask is None else mask.view(torch.uint8),
        "bags": bags,
        "classes": classes,
        "frames": frames,
        "x_strides": x.stride(),
        "mask_strides": (0, 0) if mask is None else mask.stride(),
        "MASKED": mask is not None,
    }


@dataclass(frozen=True)
class Tiling:
    """Block sizes for one shape and layout, chosen from those alone so that results repeat."""

    bags: int
    classes: int
    frames: int
    block_classes: int
    block_frames: int

    @cached_property
    def class_blocks(self) -> int:
        return triton.cdiv(self.classes, self.block_classes)

    @cached_property
    def step(self) -> int:
        """Frames of a tile."""
        return self.block_frames

    @cached_property
    def walk_frames(self) -> int:
        """Frames that one program of a backward pass walks through."""
        programs = self.bags * self.class_blocks * triton.cdiv(self.frames, WALK_FRAMES)
        few = programs < FEW_PROGRAMS
        return min(SEGMENT_TILES * self.step, WALK_FRAMES) if few else WALK_FRAMES

    @cached_property
    def walks(self) -> int:
        """Programs of a backward pass for one bag and block of classes."""
        return triton.cdiv(self.frames, self.walk_frames)

    @cached_property
    def segment_frames(self) -> int:
        """Frames that one program of a forward pass walks through, in whole tiles: no fewer tiles
        than segments, which one program joins. A number that Triton counts as aligned, so that
        blocks start where wide loads may."""
        tiles = triton.cdiv(self.frames, self.step)
        programs = self.bags * self.class_blocks
        segments = tiles // max(SEGMENT_TILES, math.isqrt(tiles))
        if segments < 2 or not 0 < programs < FEW_PROGRAMS:
            return triton.cdiv(max(self.frames, 1), ALIGNED_FRAMES) * ALIGNED_FRAMES
        segments = min(segments, triton.cdiv(_MANY_PROGRAMS, programs))
        return triton.cdiv(tiles, segments) * self.step

    @cached_property
    def segments(self) -> int:
        return max(triton.cdiv(self.frames, self.segment_frames), 1)

    def constants(self, x: Tensor, *others: Tensor | None) -> dict[str, Any]:
        """The kernels' compile-time arguments for the (bags, classes, frames) tensors that they
        touch, and masks (bags, frames)."""
        return {
            "WIDE": any(self._wide(tensor) for tensor in (x, *others) if tensor is not None),
            "COMPUTE": compute_dtype(x),
            "BLOCK_CLASSES": self.block_classes,
            "BLOCK_FRAMES": self.block_frames,
        }

    def _wide(self, tensor: Tensor) -> bool:
        """Whether an offset inside a tile of the tensor can leave 32 bits."""
        reach = self.step * tensor.stride(-1)
        if tensor.dim() == 3:
            reach += self.block_classes * tensor.stride(1)
        return reach >= _INT32_LIMIT


def tile(x: Tensor) -> Tiling:
    """Tiling of a (bags, classes, frames) tensor: long along its contiguous axis."""
    bags, classes, frames = x.shape
    wide_classes = max(triton.next_power_of_2(classes), 1)
    wide_frames = max(triton.next_power_of_2(frames), 16)
    if x.stride(1) < x.stride(2):
        block_classes = min(wide_classes, 64)
        block_frames = min(TILE_ELEMENTS // block_classes, wide_frames)
    else:
        block_frames = min(wide_frames, TILE_ELEMENTS)
        block_classes = min(TILE_ELEMENTS // block_frames, wide_classes)
    return Tiling(bags, classes, frames, block_classes, block_frames)


def compute_dtype(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def arithmetic_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
