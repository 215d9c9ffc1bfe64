"""The weighted averages, one function each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import cpp_serves_cpu, resolve
from milkernels.family import WEIGHTED_AVERAGES


def mean_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Mean of the frames. Any real x. [W, table 1]

    $$y = \frac{1}{n} \sum_i x_i$$

    >>> mean_pool(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.4000]])
    """
    return _weighted_average("mean", x, None, None, dim, mask, from_logits)


def linear_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Linear softmax: each frame weighs its own probability. [W, table 1]

    $$y = \frac{\sum_i x_i^2}{\sum_i x_i}$$

    A bag of zeros gives its limit along equal frames: y = 0 with gradient 1/n.

    >>> linear_softmax_pool(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.5000]])
    """
    return _weighted_average("linear_softmax", x, None, None, dim, mask, from_logits)


def exp_softmax_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Exponential softmax. Any real x. [W, table 1]

    $$y = \frac{\sum_i x_i \exp(x_i)}{\sum_i \exp(x_i)}$$

    >>> exp_softmax_pool(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.4395]])
    """
    return _weighted_average("exp_softmax", x, None, None, dim, mask, from_logits)


def auto_pool(
    x: Tensor,
    alpha: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Auto-pool. Any real x. [M, eq. 3]

    $$y = \frac{\sum_i x_i \exp(\alpha_c x_i)}{\sum_i \exp(\alpha_c x_i)}$$

    `alpha` (classes,) is learned: 0 is the mean, 1 exponential softmax, large the maximum.

    >>> auto_pool(torch.tensor([[[0.2, 0.6]]]), alpha=torch.tensor([100.0]))
    tensor([[0.6000]])
    """
    return _weighted_average("auto", x, None, alpha, dim, mask, from_logits)


def power_pool(
    x: Tensor,
    power: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Power pooling. [L, eq. 4]

    $$y = \frac{\sum_i x_i \, x_i^{n_c}}{\sum_i x_i^{n_c}}$$

    `power` (classes,) is the learned n ≥ 0: 0 is the mean, 1 linear softmax, large the maximum. In
    a positive bag it raises the frames above n / (n + 1) · y and lowers the others. Values are not
    checked, which on a GPU would wait for it and on a CPU slow small calls: a negative power, which
    favours the smallest frames, is taken. Keep n ≥ 0, as `milkernels.nn.PowerPool` does.

    >>> power_pool(torch.tensor([[[0.2, 0.6]]]), power=torch.tensor([2.0]))
    tensor([[0.5600]])
    """
    return _weighted_average("power", x, power, None, dim, mask, from_logits)


def power_exp_pool(
    x: Tensor,
    power: Tensor,
    alpha: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Power and exponential weights together. [W, section 4]

    $$y = \frac{\sum_i x_i w_i}{\sum_i w_i}, \quad w_i = x_i^{\beta_c} \exp(\alpha_c x_i)$$

    `power` (classes,) holds β ≥ 0, as in `power_pool` not checked, `alpha` (classes,) holds α; both
    are learned. Linear softmax is (1, 0), exponential softmax (0, 1).

    >>> power_exp_pool(torch.tensor([[[0.2, 0.6]]]), torch.tensor([1.0]), torch.tensor([0.0]))
    tensor([[0.5000]])
    """
    return _weighted_average("power_exp", x, power, alpha, dim, mask, from_logits)


def attention_pool(
    x: Tensor,
    scores: Tensor,
    score_activation: str | None = None,
    normalize: str = "frames",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    r"""Attention. Any real x. [W, table 1]

    $$y = \frac{\sum_i x_i \exp(a(s_i))}{\sum_i \exp(a(s_i))}$$

    `scores` has x's shape, dtype and device. `score_activation` is a: None [W], "sigmoid" (Deshmukh
    et al., 2020), "tanh" (the BirdCLEF AttBlockV2 head) or "clamp" (to ±10, PANNs' AttBlock). A
    score of -inf takes its frame out, as one below -2.3e38 does, outside of float64.
    `normalize="frames"` is the softmax over frames.

    With `normalize="classes"` [Xu, eq. 4] the classes compete at each frame: w is the class's share
    of the softmax over the classes, clamped to [1e-7, 1], and y = Σ x_i w_i / Σ w_i over frames. A
    score of -inf is then a share of 1e-7. A NaN in x stays in its class, but for the scores'
    gradients, which mix the bag's classes; a NaN among a frame's scores spoils all of the bag's
    classes. x and the scores are read once and their gradients written once. On a GPU a second
    small launch joins the sums of a bag that several programs share, and above 1024 classes the
    scores are read twice; backward they are read three times then, and x twice.

    >>> attention_pool(torch.tensor([[[0.2, 0.6]]]), scores=torch.tensor([[[1.0, 1.0]]]))
    tensor([[0.4000]])
    """
    if normalize == "frames" and cpp_serves_cpu():
        y = ops.weighted_average_in_one(
            "attention", x, scores, None, None, mask, score_activation, dim, from_logits
        )
        if y is not None:
            return y
    validation.floating("x", x)
    validation.attention_scores(scores, x)
    validation.score_activation(score_activation)
    validation.score_axis(normalize)
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, _, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        return reference.attention_pool(
            x, scores, score_activation, normalize, dim=dim, mask=mask, from_logits=from_logits
        )
    if normalize == "classes":
        if chosen == "cpp":
            y = ops.class_attention_in_one(x, scores, mask, score_activation, dim, from_logits)
            if y is not None:
                return y
        return ops.class_attention(x, scores, mask, score_activation, dim, from_logits, chosen)
    return ops.weighted_average(
        "attention", x, scores, None, None, mask, score_activation, dim, from_logits, chosen
    )


def _weighted_average(
    member: str,
    x: Tensor,
    power: Tensor | None,
    alpha: Tensor | None,
    dim: int,
    mask: Tensor | None,
    from_logits: bool,
) -> Tensor:
    if cpp_serves_cpu():
        y = ops.weighted_average_in_one(member, x, None, power, alpha, mask, None, dim, from_logits)
        if y is not None:
            return y
    dim = validation.frame_dim(dim)
    validation.logits_flag(from_logits)
    bags, classes, frames = validation.frame_values(x, dim)
    validation.mask_of(mask, bags, frames, x.device)
    given: dict[str, Any] = {"power": power, "alpha": alpha}
    parameters = {name: given[name] for name in WEIGHTED_AVERAGES[member].learned}
    for name, parameter in parameters.items():
        validation.class_parameter(name, parameter, classes, x.device)
    chosen = resolve(x.device)
    if chosen == "reference":
        function = getattr(reference, f"{member}_pool")
        return function(x, *parameters.values(), dim=dim, mask=mask, from_logits=from_logits)
    return ops.weighted_average(member, x, None, power, alpha, mask, None, dim, from_logits, chosen)
