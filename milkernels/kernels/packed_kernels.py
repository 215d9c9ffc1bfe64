"""Bags of different lengths in Triton: the kernels of all families.

The instances of all bags, one after the other, are cut into chunks of equal size, whatever the
bags: a program walks the pieces of bags in one chunk. A bag inside one chunk is finished there; the
sums of other pieces are stored, at most two for each chunk, and a second launch joins each bag's in
order. Offsets are clamped to the instances that there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from milkernels.kernels import jit, moments
from milkernels.kernels import log_mean_exp_frames as log_mean_exp
from milkernels.kernels import log_mean_exp_sums as states
from milkernels.kernels import maximum_frames as maximum
from milkernels.kernels import noisy_or_frames as noisy_or
from milkernels.kernels import weighted_average_frames as averages

AVERAGE = tl.constexpr(0)
MAXIMUM = tl.constexpr(1)
NOISY_OR = tl.constexpr(2)
LOG_MEAN_EXP = tl.constexpr(3)

#: Neighbouring bags of a program that joins pieces.
MERGED_BAGS = tl.constexpr(8)


@triton.jit
def limits_of(offsets_ptr, bag, instances, INDEX: tl.constexpr):
    """First instance of a bag and the one after its last."""
    first = tl.load(offsets_ptr + bag).to(tl.int64)
    last = tl.load(offsets_ptr + bag + 1).to(tl.int64)
    first = tl.minimum(tl.maximum(first, 0), instances)
    last = tl.minimum(tl.maximum(last, 0), instances)
    return first.to(INDEX), last.to(INDEX)


@triton.jit
def _bag_of(offsets_ptr, bags, search_steps, instance):
    """The first bag that ends behind an instance, `bags` if none does."""
    low = tl.full((), 0, tl.int32)
    high = low + bags
    for _ in range(search_steps):
        middle = (low + high) // 2
        open_ = low < high
        behind = tl.load(offsets_ptr + middle + 1, mask=open_, other=0) > instance
        low = tl.where(open_ & (behind == 0), middle + 1, low)
        high = tl.where(open_ & behind, middle, high)
    return low


@triton.jit
def chunk_of(
    program,
    offsets_ptr,
    bags,
    classes,
    instances,
    chunk_instances,
    search_steps,
    INDEX: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """What a program walks: number, first and last instance of its chunk, its bags, and the first
    of its block of classes."""
    class_blocks = tl.cdiv(classes, BLOCK_CLASSES)
    chunk = program // class_blocks
    begin = tl.cast(chunk, INDEX) * chunk_instances
    end = tl.minimum(begin + chunk_instances, instances).to(INDEX)
    first_bag = _bag_of(offsets_ptr, bags, search_steps, begin)
    last_bag = tl.minimum(_bag_of(offsets_ptr, bags, search_steps, end - 1) + 1, bags)
    return chunk, begin, end, first_bag, last_bag, program % class_blocks * BLOCK_CLASSES


@triton.jit
def _finish_bag(
    state,
    sharpness,
    y_ptr,
    statistics_ptr,
    places_ptr,
    cell,
    cells,
    inside,
    FAMILY: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    LEARN: tl.constexpr,
):
    """Write a bag's values and what the backward pass needs."""
    if FAMILY == AVERAGE:
        averages.finish(state, y_ptr, statistics_ptr, cell, cells, inside, FORMULA)
    elif FAMILY == MAXIMUM:
        value, index, mean = state
        maximum.finish(
            value,
            index,
            mean,
            y_ptr,
            places_ptr,
            cell,
            cells,
            inside,
            FROM_LOGITS,
            PLUS_MEAN,
        )
    elif FAMILY == NOISY_OR:
        high, low, exponent, ones = state
        noisy_or.finish(high, low, exponent, ones, y_ptr, statistics_ptr, cell, cells, inside)
    else:
        size, sign, inverse = sharpness
        log_mean_exp.finish(
            state, size, sign, inverse, y_ptr, statistics_ptr, cell, cells, inside, LEARN
        )


@jit.kernel
def _packed_forward_kernel(  # noqa: PLR0912 - one branch a family
    x_ptr,
    offsets_ptr,
    scores_ptr,
    power_ptr,
    alpha_ptr,
    y_ptr,
    statistics_ptr,
    places_ptr,
    partial_ptr,
    partial_places_ptr,
    bags,
    classes,
    instances,
    chunk_instances,
    search_steps,
    x_strides,
    scores_strides,
    FAMILY: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    LEARN: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program walks the pieces of bags in one chunk, for a block of classes. The sharpness of
    log-mean-exp comes as `power_ptr`."""
    chunk, begin, end, first_bag, last_bag, class_start = chunk_of(
        tl.program_id(0),
        offsets_ptr,
        bags,
        classes,
        instances,
        chunk_instances,
        search_steps,
        INDEX,
        BLOCK.classes,
    )
    class_index = class_start + tl.arange(0, BLOCK.classes)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    # All instances are the frames of one bag, unmasked.
    x, scores, mask = (x_ptr, x_strides), (scores_ptr, scores_strides), (x_ptr, (0, 0))
    place = (0, class_start, classes)
    sharpness = (0, 0, 0)
    if FAMILY == AVERAGE:
        power = averages.coefficient(
            power_ptr, class_index, has_class, FORMULA.power, BLOCK.compute
        )
        alpha = averages.coefficient(
            alpha_ptr, class_index, has_class, FORMULA.alpha, BLOCK.compute
        )
    if FAMILY == LOG_MEAN_EXP:
        sharpness = log_mean_exp.sharpness_of(power_ptr, class_index, has_class, BLOCK.compute)
    for bag in range(first_bag, last_bag):
        bag_first, bag_last = limits_of(offsets_ptr, bag, instances, INDEX)
        first = tl.maximum(bag_first, begin)
        last = tl.minimum(bag_last, end)
        if first < last:
            if FAMILY == AVERAGE:
                state = averages.sums_of_frames(
                    x, scores, mask, place, first, last, alpha, power, FORMULA, BLOCK
                )
            elif FAMILY == MAXIMUM:
                state = maximum.largest_of_frames(
                    x, mask, place, first, last, FROM_LOGITS, PLUS_MEAN, False, BLOCK
                )
            elif FAMILY == NOISY_OR:
                state = noisy_or.product_of_frames(
                    x, mask, place, first, last, FROM_LOGITS, False, BLOCK
                )
            else:
                state = log_mean_exp.sums_of_frames(
                    x, mask, place, first, last, sharpness, FROM_LOGITS, False, LEARN, BLOCK
                )
            if (bag_first >= begin) & (bag_last <= end):
                _finish_bag(
                    state,
                    sharpness,
                    y_ptr,
                    statistics_ptr,
                    places_ptr,
                    tl.cast(bag, tl.int64) * classes + class_index,
                    cells,
                    has_class,
                    FAMILY,
                    FORMULA,
                    FROM_LOGITS,
                    PLUS_MEAN,
                    LEARN,
                )
            else:
                # Of the two places of a chunk the second is for the bag that begins in it.
                number = 2 * tl.cast(chunk, tl.int64) + (bag_first >= begin).to(tl.int64)
                part = partial_ptr + number * ROWS * classes + class_index
                if FAMILY == AVERAGE:
                    moments.store(part, classes, state, has_class)
                elif FAMILY == MAXIMUM:
                    value, index, mean = state
                    places = partial_places_ptr + number * PLACES * classes + class_index
                    maximum.store_part(
                        value, index, mean, part, places, classes, has_class, PLUS_MEAN
                    )
                elif FAMILY == NOISY_OR:
                    high, low, exponent, ones = state
                    noisy_or.store_part(high, low, exponent, ones, part, classes, has_class)
                else:
                    states.store(part, classes, state, has_class)


@jit.kernel
def _packed_merge_kernel(  # noqa: PLR0912 - one branch a family
    offsets_ptr,
    power_ptr,
    y_ptr,
    statistics_ptr,
    places_ptr,
    partial_ptr,
    partial_places_ptr,
    bags,
    classes,
    instances,
    chunk_instances,
    FAMILY: tl.constexpr,
    FORMULA: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    PLUS_MEAN: tl.constexpr,
    LEARN: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Join the pieces of bags that lie in several chunks, in order, and write empty bags: a program
    does so for a few bags and a block of classes."""
    class_blocks = tl.cdiv(classes, BLOCK_CELLS)
    program = tl.program_id(0)
    class_index = program % class_blocks * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    has_class = class_index < classes
    cells = tl.cast(bags, tl.int64) * classes
    first_bag = program // class_blocks * MERGED_BAGS
    sharpness = (0, 0, 0)
    if FAMILY == LOG_MEAN_EXP:
        sharpness = log_mean_exp.sharpness_of(power_ptr, class_index, has_class, COMPUTE)
    for bag in range(first_bag, tl.minimum(first_bag + MERGED_BAGS, bags)):
        bag_first, bag_last = limits_of(offsets_ptr, bag, instances, INDEX)
        first = bag_first // chunk_instances
        last = (bag_last - 1) // chunk_instances
        empty = bag_first >= bag_last
        if empty | (first < last):
            # An empty bag has no pieces.
            chunks = tl.where(empty, 0, last - first + 1)
            zeros = tl.zeros((BLOCK_CELLS,), COMPUTE)
            infinity = zeros + float("inf")
            if FAMILY == AVERAGE:
                state = moments.empty(zeros)
            elif FAMILY == MAXIMUM:
                value = zeros
                index = tl.full((BLOCK_CELLS,), -1, tl.int64)
                mean = (zeros, zeros, infinity, tl.zeros((BLOCK_CELLS,), tl.int64))
            elif FAMILY == NOISY_OR:
                state = (zeros + 1, zeros, zeros, zeros)
            else:
                state = states.empty(zeros)
            number = 2 * first.to(tl.int64) + 1
            for _ in range(0, chunks):
                part = partial_ptr + number * ROWS * classes + class_index
                if FAMILY == AVERAGE:
                    there = moments.load(part, classes, has_class)
                    state = moments.merge(state, there, FORMULA)
                elif FAMILY == MAXIMUM:
                    places = partial_places_ptr + number * PLACES * classes + class_index
                    value, index, mean = maximum.join_part(
                        value, index, mean, part, places, classes, has_class, PLUS_MEAN
                    )
                elif FAMILY == NOISY_OR:
                    there = noisy_or.load_part(part, classes, has_class)
                    state = noisy_or.merge(state, there)
                else:
                    size, _, inverse = sharpness
                    there = states.load(part, classes, has_class)
                    state = states.merge(state, there, size, inverse, LEARN)
                number = (number // 2 + 1) * 2
            if FAMILY == MAXIMUM:
                state = (value, index, mean)
            _finish_bag(
                state,
                sharpness,
                y_ptr,
                statistics_ptr,
                places_ptr,
                tl.cast(bag, tl.int64) * classes + class_index,
                cells,
                has_class,
                FAMILY,
                FORMULA,
                FROM_LOGITS,
                PLUS_MEAN,
                LEARN,
            )
