"""Binary cross-entropy of bag values in Triton, its gradient, and what scales gradients after."""

import triton
import triton.language as tl

from milkernels.kernels import formula, jit, log_mean_exp_sums, noisy_or_frames

#: As in PyTorch: floors of a logarithm and of y (1 - y) in the gradient's denominator. From logits
#: the frames' slopes vanish as y does: a floor is only there to keep quotients finite.
_LOG_FLOOR = tl.constexpr(-100.0)
_VARIANCE_FLOOR = tl.constexpr(1e-12)
_VARIANCE_FLOOR_OF_LOGITS = tl.constexpr(1e-30)

#: What a gradient is taken with respect to: y; -log(1 - y), where 1 - y is known and not negative;
#: y's logit.
VALUE = tl.constexpr(0)
SURVIVAL = tl.constexpr(1)
LOGIT = tl.constexpr(2)


@triton.jit
def _floored_log(x):
    """log x, at least the floor: of 0, too."""
    positive = (x > 0) | (x != x)
    value = tl.log2(tl.where(positive, x, 1.0)) * formula.LN_2
    value = tl.where(value < _LOG_FLOOR, _LOG_FLOOR, value)
    return tl.where(positive, value, _LOG_FLOOR)


@triton.jit
def _log_of_complement(x):
    """log(1 - x) to a relative rounding, for x up to 1/2: -2 atanh(x / (2 - x))."""
    w = x / (2 - x)
    square = w * w
    return -2 * (w + w * square * log_mean_exp_sums.arctangent(square))


@triton.jit
def _half_rounding(y):
    """Half of what separates 1 from the number below it."""
    if y.dtype == tl.float64:
        return 5.551115123125783e-17
    else:
        return 2.9802322387695312e-08


@triton.jit
def of_cells(
    y,
    complement,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    cell,
    inside,
    LABELS: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """Write the losses of cells, and give their gradients. `complement` is 1 - y, negative where a
    frame is 1 and the gradient y's nonetheless."""
    WEIGHTED: tl.constexpr = LABELS[0]
    MASKED: tl.constexpr = LABELS[1]
    y = tl.where(y < 0, 0.0, y)
    y = tl.where(y > 1, 1.0, y)
    survives = complement >= 0
    complement = tl.where(complement < 0, 0.0, complement)
    target = tl.load(target_ptr + cell, mask=inside, other=0)
    lower = y < complement
    smaller = tl.where(lower, y, complement)
    log_smaller = _floored_log(smaller)
    log_larger = _log_of_complement(smaller)
    log_y = tl.where(lower, log_smaller, log_larger)
    log_complement = tl.where(lower, log_larger, log_smaller)
    loss = -(target * log_y + (1 - target) * log_complement)
    rest = complement
    if FROM_LOGITS and SLOPE == VALUE:
        # What 1 - y lacks for that y was rounded is not lost in the frames' slopes.
        half_rounding = _half_rounding(y)
        rest = tl.where(rest < half_rounding, half_rounding, rest)
    divisor = y * rest
    if SLOPE == SURVIVAL:
        divisor = tl.where(survives, y, divisor)
    floor: tl.constexpr = _VARIANCE_FLOOR_OF_LOGITS if FROM_LOGITS else _VARIANCE_FLOOR
    gradient = y * (1 - target) - target * rest
    if SLOPE != LOGIT:
        gradient /= tl.where(divisor < floor, floor, divisor)
    gradient *= tl.load(scale_ptr)
    if WEIGHTED:
        weight = tl.load(weight_ptr + cell, mask=inside, other=0)
        loss *= weight
        gradient *= weight
    if MASKED:
        known = tl.load(known_ptr + cell, mask=inside, other=0) != 0
        loss = tl.where(known, loss, 0.0)
        gradient = tl.where(known, gradient, 0.0)
    tl.store(loss_ptr + cell, loss, mask=inside)
    return gradient


@jit.kernel
def _cross_entropy_loss_kernel(
    y_ptr,
    statistics_ptr,
    slopes_ptr,
    target_ptr,
    weight_ptr,
    known_ptr,
    scale_ptr,
    loss_ptr,
    gradient_ptr,
    shares_ptr,
    cells,
    PARAMETERS: tl.constexpr,
    LABELS: tl.constexpr,
    FROM_LOGITS: tl.constexpr,
    SLOPE: tl.constexpr,
    GRADIENTS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Between a pooling's forward and its backward launches."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    inside = cell < cells
    row_stride = tl.cast(cells, tl.int64)
    y = tl.load(y_ptr + cell, mask=inside, other=0)
    complement = 1 - y
    if SLOPE == SURVIVAL:
        factor = tl.load(statistics_ptr + cell, mask=inside, other=1)
        exponent = tl.load(statistics_ptr + row_stride + cell, mask=inside, other=0)
        ones = tl.load(statistics_ptr + 2 * row_stride + cell, mask=inside, other=0)
        complement, factor, exponent = noisy_or_frames.survival(factor, exponent, ones)
        tl.store(statistics_ptr + cell, factor, mask=inside)
        tl.store(statistics_ptr + row_stride + cell, exponent, mask=inside)
    if SLOPE == LOGIT:
        y, complement = formula.faint_probability(y, True)
        index = tl.load(statistics_ptr + cell, mask=inside, other=0)
        y = tl.where(index < 0, 0.0, y)
        complement = tl.where(index < 0, 1.0, complement)
    gradient = of_cells(
        y,
        complement,
        target_ptr,
        weight_ptr,
        known_ptr,
        scale_ptr,
        loss_ptr,
        cell,
        inside,
        LABELS,
        FROM_LOGITS,
        SLOPE,
    )
    if GRADIENTS:
        tl.store(gradient_ptr + cell, gradient, mask=inside)
        for row in tl.static_range(PARAMETERS):
            slope = tl.load(slopes_ptr + row * row_stride + cell, mask=inside, other=0)
            tl.store(shares_ptr + row * row_stride + cell, gradient * slope, mask=inside)


@jit.kernel
def _cross_entropy_scale_kernel(values_ptr, by_ptr, elements, BLOCK: tl.constexpr):
    """Multiply by a number, unless it is 1: then nothing is read."""
    by = tl.load(by_ptr)
    if by != 1:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < elements
        values = tl.load(values_ptr + index, mask=inside, other=0).to(by.dtype)
        tl.store(values_ptr + index, values * by, mask=inside)
