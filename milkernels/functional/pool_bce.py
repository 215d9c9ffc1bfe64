"""Pooling and binary cross-entropy in one pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import cpp_serves_cpu, resolve
from milkernels.family import POOLING_PARAMETERS
from milkernels.functional import pooling_arguments
from milkernels.functional.log_mean_exp import sharpness_per_class

#: Poolings whose values are probabilities: the sum of maximum and mean is none.
_PROBABILITIES = tuple(name for name in POOLING_PARAMETERS if name != "max_mean")


def pool_bce(
    name: str,
    x: Tensor,
    target: Tensor,
    *params: Any,
    from_logits: bool = True,
    weight: Tensor | None = None,
    label_mask: Tensor | None = None,
    reduction: str = "mean",
    dim: int = -1,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    r"""Binary cross-entropy between a pooling of x and the bags' labels, in one pass: the average
    over the known labels of

    $$-w \, (t \log y + (1 - t) \log(1 - y)), \quad y = \mathrm{pool}(x)$$

    Where gradients are wanted they are computed with the loss: a training step reads x once and
    writes its gradient once. The backward pass multiplies that by the loss's own gradient: not at
    all if it is 1, in place for any other number. With `reduction="none"`, and for float16, whose
    range is small, it is one further pass over the gradient. Further backward passes through
    the same graph compute the gradients again. The gradient is kept from the forward pass on, in
    x's dtype, beside x, which a gradient of the gradient needs.

    The loss is computed from the bag value before it is rounded to x's dtype. As in PyTorch
    logarithms are at least -100 and y (1 - y) in the gradient's denominator is at least 1e-12, from
    logits 1e-30: every finite input gives a finite loss. Noisy-or, and the maximum of logits, know
    how far y is from 1 where it is rounded to it, and their gradients stay exact there: many frames
    bring a noisy-or to 1 before anything is learnt. A gradient beyond float16 is its largest
    number, times the loss's own gradient: that of a scaled loss overflows to infinity, which
    `torch.amp.GradScaler` looks for (but stays the largest number where classes compete and
    `reduction="none"`). A bag value outside [0, 1], of frames outside it, counts as the nearer
    bound. It is legal under autocast.

    On a GPU the bag's frames are read a second time where they do not fit a tile; "rank" and
    attention over classes take their own forward and backward launches around the loss's.

    Args:
        name: the pooling's function without `_pool`: every frame-level one whose value is a
            probability, which the sum of maximum and mean is not.
        x: frame values, as the function takes them.
        target: labels (batch, classes), of any real, integer or bool dtype; soft ones in [0, 1]
            are allowed. It gets no gradient. Values are not checked, which on a GPU would wait for
            them: a label outside [0, 1] gives a loss that may be negative. Do not mark an unknown
            label by a number such as -1, but in `label_mask`.
        params: what the function takes after x, `power` or `scores` for instance.
        from_logits: x holds logits, as by default, or probabilities.
        weight: of each label, of a shape that broadcasts to (batch, classes). It gets no gradient.
        label_mask: (batch, classes) bool, False for an unknown label: it adds nothing to the loss
            and no gradient.
        reduction: "mean" over the known labels (0 of none), "sum", or "none".
        dim: the frame axis, as in the function.
        mask: as in the function. A clip without a real frame has the value 0, and a loss for its
            labels: make them unknown if they are not 0.
        options: the function's other keywords, as `normalize="classes"`.

    Returns:
        The loss in float32, float64 for x in float64: () or, with `reduction="none"`, (batch,
        classes).

    Raises:
        ValueError, TypeError: for an unknown name, and arguments that do not fit.

    >>> logits, labels = torch.zeros(4, 17, 50), torch.ones(4, 17)
    >>> pool_bce("linear_softmax", logits, labels)
    tensor(0.6931)
    """
    validation.one_of("name", name, _PROBABILITIES)
    given = pooling_arguments.named(name, params, options)
    over_classes = given.get("normalize") == "classes"
    if weight is None and not over_classes and cpp_serves_cpu():
        loss = ops.pool_bce_in_one(
            name,
            x,
            given.get("scores"),
            given.get("alpha"),
            given.get("power"),
            target,
            label_mask,
            mask,
            given.get("score_activation"),
            reduction,
            dim,
            from_logits,
        )
        if loss is not None:
            return loss
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, classes, frames = validation.frame_values(x, dim)
    pooling_arguments.check(given, x, classes)
    validation.mask_of(mask, bags, frames, x.device)
    validation.bag_labels(target, bags, classes, x.device)
    validation.label_weight(weight, bags, classes, x.device)
    validation.label_mask(label_mask, bags, classes, x.device)
    validation.one_of("reduction", reduction, ("mean", "sum", "none"))
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.pool_bce(
            name,
            x,
            target,
            from_logits=from_logits,
            weight=weight,
            label_mask=label_mask,
            reduction=reduction,
            dim=dim,
            mask=mask,
            **given,
        )
    if name == "log_mean_exp":
        given["sharpness"] = sharpness_per_class(given["sharpness"], x, classes)
    return ops.pool_bce(
        "class_attention" if over_classes else name,
        x,
        given.get("scores"),
        given.get("alpha"),
        given.get("power"),
        given.get("sharpness"),
        target,
        weight,
        label_mask,
        mask,
        float(given.get("decay", 1)),
        given.get("score_activation"),
        reduction,
        dim,
        from_logits,
        chosen,
    )
