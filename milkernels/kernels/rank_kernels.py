"""Global weighted rank pooling in Triton: its kernels.

A frame's key is an integer that is smaller for a larger value, of the width of its dtype. Sorted by
(key, frame), a bag's real frames come in the order of their ranks, the earlier of equals first.
Keys keep all of a value: it is decoded from them, and nothing is read twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import formula, jit, moments, tiles

#: Stands for the rank of a frame that is not real.
NOTHING = tl.constexpr(-1)

#: Below this many bits a (key, frame) pair fits into 32.
_NARROW = tl.constexpr(16)


@triton.jit
def keys_of(raw, real, BITS: tl.constexpr):
    """Keys of a tile of values as they are stored; the largest key where they are not real."""
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    if BITS == 64:
        own = raw.to(tl.int64, bitcast=True)
    elif BITS == 32:
        own = raw.to(tl.int32, bitcast=True)
    else:
        own = raw.to(tl.int16, bitcast=True)
    # -0 and 0 are equal.
    own = tl.where(raw == 0, tl.zeros_like(own), own)
    last = tl.full(own.shape, LAST, own.dtype)
    key = ~(own ^ ((own >> (BITS - 1)) & last))
    key = tl.where(raw != raw, ~last, key)
    return tl.where(real, key, last)


@triton.jit
def _value_of(key, ELEMENT: tl.constexpr, COMPUTE: tl.constexpr, BITS: tl.constexpr):
    """The value that a key stands for; every NaN has the first key."""
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    last = tl.full(key.shape, LAST, key.dtype)
    rising = ~key
    own = rising ^ ((rising >> (BITS - 1)) & last)
    value = own.to(ELEMENT, bitcast=True).to(COMPUTE)
    return tl.where(key == ~last, float("nan"), value)


@triton.jit
def _is_real(key, BITS: tl.constexpr):
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    return key != LAST


@triton.jit
def weight_of(rank, log2_decay, COMPUTE: tl.constexpr):
    """decay^rank. `log2_decay` comes in parts of 24 bits: its product with a rank is rounded after
    the whole number nearest to it is taken off, so that large ranks lose nothing."""
    high, middle, low = log2_decay
    high = tl.full(rank.shape, 0, COMPUTE) + tl.cast(high, COMPUTE)
    rank = rank.to(COMPUTE)
    whole = tl.floor(rank * high + 0.5)
    rest = tl.fma(rank, high, -whole) + rank * tl.cast(middle, COMPUTE)
    if rank.dtype == tl.float64:
        rest += rank * tl.cast(low, COMPUTE)
    return tl.exp2(rest) * tl.exp2(whole)


@triton.jit
def _sort(items, ROWS: tl.constexpr, LOG2_LENGTH: tl.constexpr):
    """Rows sorted, rising: Batcher's bitonic network. (tl.sort is the same network, but takes
    minutes in the interpreter, whose reductions by xor go element by element.)"""
    LENGTH: tl.constexpr = 2**LOG2_LENGTH
    second = (tl.arange(0, 2) != 0)[None, None, :, None]
    for run in tl.static_range(1, LOG2_LENGTH + 1):
        for step in tl.static_range(1, run + 1):
            # Order each item with the one 2^(run - step) away: falling in every second run.
            pairs = tl.reshape(items, [ROWS, LENGTH >> (run - step + 1), 2, 1 << (run - step)])
            group = tl.arange(0, LENGTH >> (run - step + 1))
            falling = ((group >> (step - 1)) & 1) != 0
            if run == LOG2_LENGTH:
                falling = group < 0
            other = (tl.sum(pairs, 2, keep_dims=True) - pairs).to(items.dtype)
            swap = (other < pairs) != (second != falling[None, :, None, None])
            items = tl.reshape(tl.where(swap, other, pairs), [ROWS, LENGTH])
    return items


@triton.jit
def _finish(product, total, low, high, y_ptr, total_ptr, cell, inside):
    """Write bag values, and totals that take gradients to 0 in bags of nothing and to NaN in bags
    with a NaN."""
    nothing = total == 0
    y = moments.held(product / tl.where(nothing, 1.0, total), low, high)
    tl.store(y_ptr + cell, tl.where(nothing, 0.0, y), mask=inside)
    spoilt = tl.where(product != product, float("nan"), total)
    tl.store(total_ptr + cell, tl.where(nothing, float("inf"), spoilt), mask=inside)


@triton.jit
def _weigh(
    key,
    rank,
    log2_decay,
    FROM_LOGITS: tl.constexpr,
    ELEMENT: tl.constexpr,
    COMPUTE: tl.constexpr,
    BITS: tl.constexpr,
):
    """Sums of weight · x and of weights along a (rows, ranks) tile of sorted keys, bounds of x."""
    real = _is_real(key, BITS)
    x, _ = formula.probability(_value_of(key, ELEMENT, COMPUTE, BITS), FROM_LOGITS)
    weight = tl.where(real, weight_of(rank, log2_decay, COMPUTE), 0.0)
    product = tl.sum(weight * tl.where(real, x, 0.0), 1)
    low = tl.min(tl.where(real, x, float("inf")), 1)
    high = tl.max(tl.where(real, x, -float("inf")), 1)
    return product, tl.sum(weight, 1), low, high


@jit.kernel
def _rank_forward_kernel(
    x_ptr,
    mask_ptr,
    y_ptr,
    total_ptr,
    ranks_ptr,
    classes,
    frames,
    log2_decay,
    x_strides,
    mask_strides,
    ranks_strides,
    FROM_LOGITS: tl.constexpr,
    MASKED: tl.constexpr,
    KEEP_RANKS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
    LOG2_FRAMES: tl.constexpr,
):
    """A program sorts all frames of one bag's block of classes."""
    ELEMENT: tl.constexpr = x_ptr.dtype.element_ty
    BITS: tl.constexpr = ELEMENT.primitive_bitwidth
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    class_start = tl.program_id(0) % class_blocks * BLOCK_CLASSES
    bag = tl.program_id(0) // class_blocks
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    inside, real = tiles.inside_and_real(
        has_class, 0, frames, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
    )
    x_tile = tiles.pointers(
        x_ptr, bag, class_start, 0, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
    )
    key = keys_of(tl.load(x_tile, mask=inside, other=0), real, BITS)
    frame = tl.arange(0, BLOCK_FRAMES)[None, :]
    if BITS == _NARROW:
        items = _sort((key.to(tl.int32) << 16) | frame, BLOCK_CLASSES, LOG2_FRAMES)
        key = (items >> 16).to(tl.int16)
    else:
        wide = (key.to(tl.int64) << 32) | frame.to(tl.int64)
        items = _sort(wide, BLOCK_CLASSES, LOG2_FRAMES)
        key = (items >> 32).to(tl.int32)
    rank = tl.zeros((BLOCK_CLASSES, BLOCK_FRAMES), tl.int32) + frame
    product, total, low, high = _weigh(key, rank, log2_decay, FROM_LOGITS, ELEMENT, COMPUTE, BITS)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    _finish(product, total, low, high, y_ptr, total_ptr, cell, has_class)
    if KEEP_RANKS:
        owner = (items & 0xFFFF).to(tl.int32)
        stride_bag, stride_class, stride_frame = ranks_strides
        place = tl.cast(bag, tl.int64) * stride_bag + class_index.to(tl.int64) * stride_class
        place = place[:, None] + owner.to(tl.int64) * stride_frame
        rank = tl.where(_is_real(key, BITS), rank, NOTHING)
        tl.store(ranks_ptr + place, rank, mask=has_class[:, None] & (owner < frames))


@jit.kernel
def _rank_keys_kernel(
    x_ptr,
    mask_ptr,
    keys_ptr,
    classes,
    frames,
    walk_frames,
    x_strides,
    mask_strides,
    keys_strides,
    MASKED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Keys of long bags, for a library's sort."""
    bag, class_start, first, last = tiles.backward_walk(
        tl.program_id(0), classes, frames, walk_frames, BLOCK_CLASSES
    )
    has_class = class_start + tl.arange(0, BLOCK_CLASSES) < classes
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside, real = tiles.inside_and_real(
            has_class, frame_start, last, mask_ptr, bag, mask_strides, BLOCK_FRAMES, MASKED
        )
        x_tile = tiles.pointers(
            x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        keys_tile = tiles.pointers(
            keys_ptr, bag, class_start, frame_start, keys_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
        )
        raw = tl.load(x_tile, mask=inside, other=0)
        key = keys_of(raw, real, x_ptr.dtype.element_ty.primitive_bitwidth)
        tl.store(keys_tile, key, mask=inside)


@jit.kernel
def _rank_weigh_kernel(
    keys_ptr,
    order_ptr,
    partial_ptr,
    ranks_ptr,
    cells,
    classes,
    frames,
    segment_frames,
    log2_decay,
    ranks_strides,
    FROM_LOGITS: tl.constexpr,
    KEEP_RANKS: tl.constexpr,
    ELEMENT: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Weighs a segment of one bag and class, in the order of its sorted keys."""
    BITS: tl.constexpr = ELEMENT.primitive_bitwidth
    LAST: tl.constexpr = (1 << (BITS - 1)) - 1
    segments = tl.cdiv(frames, segment_frames)
    segment = tl.program_id(0) % segments
    cell = (tl.program_id(0) // segments).to(tl.int64)
    first = segment * segment_frames
    last = tl.minimum(first + segment_frames, frames)
    stride_bag, stride_class, stride_frame = ranks_strides
    ranks_row = ranks_ptr + cell // classes * stride_bag + cell % classes * stride_class
    product = tl.zeros((1,), COMPUTE)
    total = tl.zeros((1,), COMPUTE)
    low = tl.full((1,), float("inf"), COMPUTE)
    high = tl.full((1,), -float("inf"), COMPUTE)
    for start in range(first, last, BLOCK_FRAMES):
        rank = (start + tl.arange(0, BLOCK_FRAMES))[None, :]
        inside = rank < last
        key = tl.load(keys_ptr + cell * frames + rank, mask=inside, other=LAST)
        product_here, total_here, low_here, high_here = _weigh(
            key, rank, log2_decay, FROM_LOGITS, ELEMENT, COMPUTE, BITS
        )
        product += product_here
        total += total_here
        low = tl.minimum(low, low_here)
        high = tl.maximum(high, high_here)
        if KEEP_RANKS:
            owner = tl.load(order_ptr + cell * frames + rank, mask=inside, other=0)
            rank = tl.where(_is_real(key, BITS), rank, NOTHING)
            tl.store(ranks_row + owner * stride_frame, rank, mask=inside)
    row_stride = tl.cast(cells, tl.int64)
    row = partial_ptr + segment * 4 * row_stride + cell + tl.zeros((1,), tl.int64)
    tl.store(row, product)
    tl.store(row + row_stride, total)
    tl.store(row + 2 * row_stride, low)
    tl.store(row + 3 * row_stride, high)


@jit.kernel
def _rank_merge_kernel(
    partial_ptr,
    y_ptr,
    total_ptr,
    cells,
    segments,
    COMPUTE: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the segments of long bags, in order."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    product = tl.zeros((BLOCK_CELLS,), COMPUTE)
    total = tl.zeros((BLOCK_CELLS,), COMPUTE)
    low = tl.full((BLOCK_CELLS,), float("inf"), COMPUTE)
    high = tl.full((BLOCK_CELLS,), -float("inf"), COMPUTE)
    row_stride = tl.cast(cells, tl.int64)
    for segment in range(segments):
        row = partial_ptr + segment * 4 * row_stride + cell
        product += tl.load(row, mask=inside, other=0)
        total += tl.load(row + row_stride, mask=inside, other=0)
        low = tl.minimum(low, tl.load(row + 2 * row_stride, mask=inside, other=0))
        high = tl.maximum(high, tl.load(row + 3 * row_stride, mask=inside, other=0))
    _finish(product, total, low, high, y_ptr, total_ptr, cell, inside)


@jit.kernel
def _rank_backward_kernel(
    gradient_ptr,
    x_ptr,
    ranks_ptr,
    total_ptr,
    x_gradient_ptr,
    classes,
    frames,
    walk_frames,
    log2_decay,
    gradient_strides,
    x_strides,
    ranks_strides,
    x_gradient_strides,
    FROM_LOGITS: tl.constexpr,
    WIDE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
):
    """Elementwise: reads each rank once, and x only for the sigmoid's derivative."""
    bag, class_start, first, last = tiles.backward_walk(
        tl.program_id(0), classes, frames, walk_frames, BLOCK_CLASSES
    )
    class_index = class_start + tl.arange(0, BLOCK_CLASSES)
    has_class = class_index < classes
    stride_bag, stride_class = gradient_strides
    address = gradient_ptr + tl.cast(bag, tl.int64) * stride_bag + class_index * stride_class
    gradient = tl.load(address, mask=has_class, other=0).to(COMPUTE)
    cell = tl.cast(bag, tl.int64) * classes + class_index
    scale = (gradient / tl.load(total_ptr + cell, mask=has_class, other=1))[:, None]
    for frame_start in range(first, last, BLOCK_FRAMES):
        inside = has_class[:, None] & (frame_start + tl.arange(0, BLOCK_FRAMES) < last)[None, :]
        ranks_tile = tiles.pointers(
            ranks_ptr,
            bag,
            class_start,
            frame_start,
            ranks_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        rank = tl.load(ranks_tile, mask=inside, other=NOTHING).to(tl.int32)
        result = scale * weight_of(tl.maximum(rank, 0), log2_decay, COMPUTE)
        if FROM_LOGITS:
            x_tile = tiles.pointers(
                x_ptr, bag, class_start, frame_start, x_strides, BLOCK_CLASSES, BLOCK_FRAMES, WIDE
            )
            raw = tl.load(x_tile, mask=inside, other=0).to(COMPUTE)
            x, complement = formula.probability(raw, True)
            result *= x * complement
        x_gradient_tile = tiles.pointers(
            x_gradient_ptr,
            bag,
            class_start,
            frame_start,
            x_gradient_strides,
            BLOCK_CLASSES,
            BLOCK_FRAMES,
            WIDE,
        )
        tl.store(x_gradient_tile, tl.where(rank < 0, 0.0, result), mask=inside)
