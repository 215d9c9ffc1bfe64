"""What the kernels that pool and compute the loss at once share: a program's place, its tiles in,
its gradients out.

Arguments that belong together travel as tuples: a tensor and its strides, `place` as (bag, first
class).
"""

import triton
import triton.language as tl

from milkernels.kernels import cross_entropy, tiles


@triton.jit
def place(classes, BLOCK_CLASSES: tl.constexpr):
    """A program's bag, first class, which of its classes exist, and their cells."""
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    bag = tl.program_id(0) // class_blocks
    class_start = tl.program_id(0) % class_blocks * BLOCK_CLASSES
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    return bag, class_start, class_index, class_index < classes, cell


@triton.jit
def read(
    x,
    mask,
    place,
    frame_start,
    frames,
    has_class,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile's raw values, masked frames 0, and which frames there are and which are real."""
    bag, class_start = place
    x_ptr, strides = x
    mask_ptr, mask_strides = mask
    inside, real = tiles.inside_and_real(
        has_class, frame_start, frames, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
    )
    tile = tiles.pointers(
        x_ptr, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    raw = tl.load(tile, mask=inside, other=0).to(COMPUTE)
    return tl.where(real, raw, 0.0), inside, real


@triton.jit
def write(
    x_gradient,
    place,
    frame_start,
    gradient,
    inside,
    real,
    WIDE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """A tile's gradient, 0 for masked frames."""
    bag, class_start = place
    pointer, strides = x_gradient
    tile = tiles.pointers(
        pointer, bag, class_start, frame_start, strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    gradient = cross_entropy.saturated(tl.where(real, gradient, 0.0), pointer)
    tl.store(tile, gradient, mask=inside)
