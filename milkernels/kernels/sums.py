"""Sums in a fixed order, without atomics."""

import triton
import triton.language as tl

#: Block of the programs that sum a parameter's gradient over the bags.
_OVER_BAGS = tl.constexpr(32)
OVER_CLASSES = tl.constexpr(64)


@triton.jit
def add(total, lost, term):
    """A sum of many terms, with what each addition loses kept beside."""
    after = total + term
    added = after - total
    return after, lost + ((total - (after - added)) + (term - added))


def programs(classes: int, learn: bool) -> int:
    """Programs that sum parameters' gradients over the bags: one for each block of classes. They
    are the first of a grid, so that they do not end it alone."""
    return triton.cdiv(classes, OVER_CLASSES.value) if learn else 0


@triton.jit
def first_walk(classes, LEARN: tl.constexpr):
    """The program after those that sum."""
    return tl.cdiv(classes, OVER_CLASSES) if LEARN else 0


@triton.jit
def over_bags(
    gradient_ptr,
    slope_ptr,
    parameter_gradient_ptr,
    block,
    bags,
    classes,
    gradient_strides,
    COMPUTE: tl.constexpr,
):
    """A parameter's gradient for one block of classes: Σ dL/dy · dy/dparameter, bag after
    bag. The second factor is (bags, classes), contiguous."""
    stride_bag, stride_class = gradient_strides
    class_index = block * OVER_CLASSES + tl.arange(0, OVER_CLASSES)
    result = tl.zeros((OVER_CLASSES,), COMPUTE)
    for bag_start in range(0, bags, _OVER_BAGS):
        bag = (bag_start + tl.arange(0, _OVER_BAGS)).to(tl.int64)[:, None]
        inside = (bag < bags) & (class_index < classes)[None, :]
        address = gradient_ptr + bag * stride_bag + class_index[None, :] * stride_class
        gradient = tl.load(address, mask=inside, other=0).to(COMPUTE)
        address = slope_ptr + bag * classes + class_index[None, :]
        result += tl.sum(gradient * tl.load(address, mask=inside, other=0), 0)
    tl.store(parameter_gradient_ptr + class_index, result, mask=class_index < classes)
