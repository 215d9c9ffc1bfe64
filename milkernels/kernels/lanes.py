"""How (bags, classes, frames) tensors are walked by kernels that see each frame once.

The lanes of a block are its places (class, frame); each sees one frame of every chunk, and keeps
what it has seen to itself: nothing is exchanged between threads until the lanes of a class are
joined, once, at the end of a walk.

A tensor travels with its strides as (pointer, strides), those in the order (bag, class, frame), and
a walk's place is (bag, first of its block of classes, number of classes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.kernels import tiles

_THREADS = tiles.NUM_WARPS * 32

#: A thread is to have all chunks of its lanes. Triton hands threads out along the contiguous axis
#: first and then, as it breaks ties, along the last one of the others or, before 3.7, the first.
CHUNKS_FIRST = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7))

#: Bytes of a block for each thread, in the type that it is computed in. Where lanes are joined, a
#: block costs each something; where they are not, registers are better left to more threads.
JOINED_BYTES = 64
ELEMENTWISE_BYTES = 32

#: Threads side by side along the contiguous axis: whole lines of 128 bytes where accesses are
#: widest, and not more, as joining lanes takes an exchange for each doubling.
_THREADS_OF_ROW = 8
_THREADS_OF_CLASSES = 32

#: Of a block that holds all frames of some classes: how many lie side by side, and what a program
#: may have of a multiprocessor's registers.
_SIDE_BY_SIDE = 16
_MOST_WARPS = 16

#: Classes of which a thread that is short of registers can keep lanes.
_MOST_LANES = 4

#: What a block costs a thread beside its frames, in frames; and what a frame costs more in the last
#: blocks, which ask each whether it is there and are this part of the others.
_BLOCK_COST = 3.0
_LAST_COST = 1.5
_LAST_SHARE = 4


@dataclass(frozen=True)
class Block:
    """What kernels are compiled for, as one compile-time constant: the sizes of a block, the type
    that it is computed in, and whether offsets inside it need 64 bits. `width` divides all strides
    but 1, and the number of elements along the contiguous axis, which `across` says is the
    classes."""

    chunks: int
    classes: int
    frames: int
    last_chunks: int
    width: int
    across: bool
    wide: bool
    compute: tl.dtype
    #: Whether what float16 does not hold is written as its largest number.
    saturates: bool = False

    @property
    def step(self) -> int:
        """Frames from one block to the next."""
        return self.chunks * self.frames

    @property
    def last(self) -> Block:
        """The blocks at the end of a walk, where less than a whole one is left."""
        return replace(self, chunks=self.last_chunks)

    @property
    def side_by_side(self) -> int:
        """Frames that a thread reads at once."""
        return 1 if self.across else self.width

    @property
    def flags_each(self) -> bool:
        """Whether a mask's flags are read for each element, and not once for all classes: where no
        two threads side by side have the same frame."""
        return not self.across or self.classes == self.width

    @property
    def lanes(self) -> int:
        """Of a class, where a lane holds all frames of a thread."""
        return self.frames // self.side_by_side

    @property
    def folded_levels(self) -> int:
        """Of a tree over the frames that such a lane sees at once."""
        return (self.chunks * self.side_by_side).bit_length() - 1

    @property
    def joins(self) -> int:
        """Steps in which such lanes of a class are joined, up to eight at a time."""
        return (self.lanes.bit_length() + 1) // 3


@triton.jit
def _pointers(tensor, place, frame_start, BLOCK: tl.constexpr):
    """Addresses of a block: its first in 64 bits, the offsets from there in 64 bits only where it
    is wide."""
    pointer, strides = tensor
    bag, class_start, _ = place
    stride_bag, stride_class, stride_frame = strides
    stride_bag = tiles.multiple(stride_bag, BLOCK.width)
    if BLOCK.across:
        stride_frame = tiles.multiple(stride_frame, BLOCK.width)
    else:
        stride_class = tiles.multiple(stride_class, BLOCK.width)
    first = (
        pointer
        + tl.cast(bag, tl.int64) * stride_bag
        + tl.cast(class_start, tl.int64) * stride_class
        + tl.cast(frame_start, tl.int64) * stride_frame
    )
    in_class = per_class(tl.arange(0, BLOCK.classes))
    frame = in_frame(BLOCK)
    if BLOCK.wide:
        in_class = in_class.to(tl.int64)
        frame = frame.to(tl.int64)
    return first + in_class * stride_class + frame * stride_frame


@triton.jit
def per_class(values):
    """Values of a block's classes, beside its elements."""
    if CHUNKS_FIRST:
        return values[None, :, None]
    else:
        return values[:, None, None]


@triton.jit
def in_frame(BLOCK: tl.constexpr):
    """Each element's frame in its block."""
    return _in_chunks(tl.arange(0, BLOCK.frames), BLOCK)


@triton.jit
def _in_chunks(place, BLOCK: tl.constexpr):
    """Frames of each chunk, from those of the first."""
    chunk = tl.arange(0, BLOCK.chunks) * BLOCK.frames
    if CHUNKS_FIRST:
        return place[None, None, :] + chunk[:, None, None]
    else:
        return place[None, :, None] + chunk[None, None, :]


@triton.jit
def read(tensor, place, frame_start, inside, BLOCK: tl.constexpr):
    """A block in the type that it is computed in, 0 outside."""
    values = tl.load(_pointers(tensor, place, frame_start, BLOCK), mask=inside, other=0)
    return values.to(BLOCK.compute)


@triton.jit
def write(tensor, place, frame_start, values, inside, BLOCK: tl.constexpr):
    pointers = _pointers(tensor, place, frame_start, BLOCK)
    if BLOCK.saturates and pointers.dtype.element_ty == tl.float16:
        values = tl.where(values > 65504.0, 65504.0, values)
        values = tl.where(values < -65504.0, -65504.0, values)
    tl.store(pointers, values, mask=inside)


@triton.jit
def inside_and_real(
    mask,
    place,
    frame_start,
    last_frame,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Which elements of a block exist, and which frames do and are not masked. Of a WHOLE block all
    frames exist."""
    _, class_start, classes = place
    if BLOCK.across:
        classes = tiles.multiple(classes, BLOCK.width)
    else:
        last_frame = tiles.multiple(last_frame, BLOCK.width)
    inside = class_start + per_class(tl.arange(0, BLOCK.classes)) < classes
    real = frame_start + in_frame(BLOCK) < last_frame
    if not WHOLE:
        inside = inside & real
    if MASKED:
        flags = _flags(mask, place, frame_start, BLOCK)
        flag = tl.load(flags) if WHOLE else tl.load(flags, mask=real, other=0)
        real = flag != 0
    return inside, real


@triton.jit
def _flags(mask, place, frame_start, BLOCK: tl.constexpr):
    """Addresses of a mask's flags for a block."""
    mask_ptr, strides = mask
    stride_bag, stride_frame = strides
    first = mask_ptr + tl.cast(place[0], tl.int64) * stride_bag
    first += tl.cast(frame_start, tl.int64) * stride_frame
    place = tl.arange(0, BLOCK.frames)
    if BLOCK.flags_each:
        # As many at once as of elements: so a thread reads the flags of its own.
        width: tl.constexpr = BLOCK.side_by_side
        classes: tl.constexpr = BLOCK.classes
        place = tl.max_contiguous(place, width)
        frame = _in_chunks(place, BLOCK) + per_class(tl.zeros((classes,), tl.int32))
    else:
        frame = _in_chunks(place, BLOCK)
    if BLOCK.wide:
        frame = frame.to(tl.int64)
    return first + frame * stride_frame


@triton.jit
def folded(block, BLOCK: tl.constexpr):
    """A block as (chunks · width, classes, frames / width), so that a thread has one lane of a
    class, which holds the frames side by side that it reads at once. Nothing moves."""
    width: tl.constexpr = BLOCK.side_by_side
    lanes: tl.constexpr = BLOCK.lanes
    chunks: tl.constexpr = block.shape[0] if CHUNKS_FIRST else block.shape[2]
    # Of what is the same for all classes there is one.
    classes: tl.constexpr = block.shape[1] if CHUNKS_FIRST else block.shape[0]
    if CHUNKS_FIRST:
        block = tl.reshape(block, (chunks, classes, lanes, width))
        block = tl.permute(block, (0, 3, 1, 2))
    else:
        block = tl.reshape(block, (classes, lanes, width, chunks))
        block = tl.permute(block, (3, 2, 0, 1))
    return tl.reshape(block, (chunks * width, classes, lanes))


@triton.jit
def folded_frames(BLOCK: tl.constexpr):
    """Each element's frame in its folded block."""
    width: tl.constexpr = BLOCK.side_by_side
    row = tl.arange(0, BLOCK.chunks * width)[:, None, None]
    lane = tl.arange(0, BLOCK.frames // width)[None, None, :]
    return row // width * BLOCK.frames + lane * width + row % width


@triton.jit
def zeros(BLOCK: tl.constexpr):
    """One for each lane of a folded block."""
    classes: tl.constexpr = BLOCK.classes
    lanes: tl.constexpr = BLOCK.lanes
    return tl.zeros((classes, lanes), BLOCK.compute)


@dataclass(frozen=True)
class Lanes(tiles.Tiling):
    """Blocks for one shape and layout, chosen from those alone so that results repeat."""

    chunks: int
    width: int
    across: bool

    @cached_property
    def step(self) -> int:
        return self.block_frames * self.chunks

    @cached_property
    def warps(self) -> int:
        return max(self.block_classes * self.block_frames // (32 * self.width), tiles.NUM_WARPS)

    def constants(self, x: Tensor, *others: Tensor | None) -> dict[str, Any]:
        """The kernels' compile-time argument for the (bags, classes, frames) tensors that they
        touch, and masks (bags, frames)."""
        plain = super().constants(x, *others)
        block = Block(
            self.chunks,
            self.block_classes,
            self.block_frames,
            max(self.chunks // _LAST_SHARE, 1),
            self.width,
            self.across,
            plain["WIDE"],
            plain["COMPUTE"],
        )
        return {"BLOCK": block}


def of(
    x: Tensor, *others: Tensor | None, whole: bool = True, thread_bytes: int = ELEMENTWISE_BYTES
) -> Lanes:
    """Lanes for (bags, classes, frames) tensors; `x` says which axis is contiguous. Walks that are
    not `whole` begin and end at any frame."""
    return _of(tiles.layouts(x, *others), x.dtype, whole, thread_bytes)


@lru_cache(maxsize=1024)
def _of(layouts: tiles.Layouts, dtype: torch.dtype, whole: bool, thread_bytes: int) -> Lanes:
    (bags, classes, frames), strides = layouts[0]
    across = strides[1] < strides[2]
    width = tiles.common_width(layouts, dtype, across)
    width = width if across or whole else 1
    wide_classes = triton.next_power_of_2(max(classes, 1))
    wide_frames = triton.next_power_of_2(max(frames, width))
    places = _THREADS * width
    if across:
        side_by_side = max(_THREADS_OF_CLASSES, _THREADS_OF_ROW * width)
        block_classes = min(side_by_side, wide_classes, places)
        block_frames = min(places // block_classes, wide_frames)
    else:
        block_frames = min(_THREADS_OF_ROW * max(width, 2), wide_frames)
        block_classes = min(places // block_frames, wide_classes)
        block_frames = min(places // block_classes, wide_frames)
    elements = thread_bytes // max(dtype.itemsize, 4)
    chunks = _chunks(frames, block_frames, width, elements)
    return Lanes(bags, classes, frames, block_classes, block_frames, chunks, width, across)


def holding(
    x: Tensor, *others: Tensor | None, crowded: bool, thread_bytes: int = JOINED_BYTES
) -> Lanes | None:
    """Lanes of one block that holds all frames of some classes, if it can. A thread of a `crowded`
    one is to have as many registers as there can be."""
    return _holding(tiles.layouts(x, *others), x.dtype, crowded, thread_bytes)


@lru_cache(maxsize=1024)
def _holding(
    layouts: tiles.Layouts, dtype: torch.dtype, crowded: bool, thread_bytes: int
) -> Lanes | None:
    (bags, classes, frames), strides = layouts[0]
    across = strides[1] < strides[2]
    width = tiles.common_width(layouts, dtype, across)
    if crowded and (dtype.itemsize == 8 or (across and width > _MOST_LANES)):
        return None
    wide_classes = triton.next_power_of_2(max(classes, 1))
    chunks = max(thread_bytes // max(dtype.itemsize, 4) // width, 1)
    most_warps = _MOST_WARPS // 2 if crowded else _MOST_WARPS
    block_frames = triton.next_power_of_2(triton.cdiv(max(frames, 1), chunks))
    if across:
        choices = [min(_SIDE_BY_SIDE // share, wide_classes) for share in (1, 2, 4)]
    else:
        block_frames = max(block_frames, width)
        choices = [min(max(_THREADS * width // block_frames, 1), wide_classes)]
    for block_classes in choices:
        found = Lanes(bags, classes, frames, block_classes, block_frames, chunks, width, across)
        if found.warps <= most_warps:
            return found
    return None


def _chunks(frames: int, block_frames: int, width: int, elements: int) -> int:
    """Chunks of a block: many, unless most of the last ones would be empty."""
    needed = triton.next_power_of_2(triton.cdiv(max(frames, 1), block_frames))
    most = min(max(elements // width, 1), needed)
    choices = [2**power for power in range(most.bit_length())]

    def cost(chunks: int) -> float:
        whole, rest = divmod(frames, block_frames * chunks)
        last = max(chunks // _LAST_SHARE, 1)
        blocks = triton.cdiv(rest, block_frames * last)
        return whole * (width * chunks + _BLOCK_COST) + blocks * (
            _LAST_COST * width * last + _BLOCK_COST
        )

    return min(reversed(choices), key=cost)
