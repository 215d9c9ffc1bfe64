"""Every frame-level pooling over bags of different lengths, in C++."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from milkernels.family import SCORE_ACTIVATIONS, WEIGHTED_AVERAGES
from milkernels.kernels.cpp import extension
from milkernels.kernels.cpp.weighted_average import member_number


def forward(
    x: Tensor,
    offsets: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    sharpness: Tensor | None,
    name: str,
    score_activation: str | None,
    decay: float,
    from_logits: bool,
    learn: bool,
    y: Tensor,
    statistics: Tensor,
    places: Tensor,
) -> None:
    """Fill y (bags, classes), the statistics (bags, rows, classes) and the places: of maxima (1 or
    2, bags, classes), inside their bags, or the ranks (instances, classes) if those are wanted."""
    call = _Call(x, offsets, from_logits)
    parameters = _Parameters(call, scores, power, alpha, sharpness)
    if name in WEIGHTED_AVERAGES:
        inputs = parameters.of_average(name, score_activation)
        call.run("average_forward", *inputs, (y, statistics))
    elif name in ("max", "max_mean"):
        plus_mean = name == "max_mean"
        call.run("maximum_forward", plus_mean, y, places)
    elif name == "noisy_or":
        call.run("noisy_or_forward", (y, statistics))
    elif name == "log_mean_exp":
        call.run("log_mean_exp_forward", parameters.sharpness, learn, (y, statistics))
    elif name == "class_attention":
        inputs = parameters.of_scores(score_activation)
        call.run("class_attention_forward", *inputs, (y, statistics))
    else:
        given = call.view(places) if learn else None
        ranks = extension.empty_along(given, call.axis)
        call.run("rank_forward", decay, ranks, (y, statistics))
        extension.hand_over((ranks,), (given,))


def backward(
    gradient: Tensor,
    x: Tensor,
    offsets: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    sharpness: Tensor | None,
    statistics: Tensor,
    places: Tensor,
    name: str,
    score_activation: str | None,
    decay: float,
    from_logits: bool,
    learn: bool,
    x_gradient: Tensor,
    scores_gradient: Tensor | None,
    power_gradient: Tensor | None,
    alpha_gradient: Tensor | None,
    sharpness_gradient: Tensor | None,
) -> None:
    """Fill the gradients that are given."""
    gradient, statistics, places = (
        gradient.contiguous(),
        statistics.contiguous(),
        places.contiguous(),
    )
    call = _Call(x, offsets, from_logits)
    parameters = _Parameters(call, scores, power, alpha, sharpness)
    of_frames = (call.view(x_gradient), call.view(scores_gradient))
    of_classes = (power_gradient, alpha_gradient, sharpness_gradient)
    given = (*of_frames, *of_classes)
    filled = (
        *(extension.empty_along(tensor, call.axis) for tensor in of_frames),
        *(extension.empty_in_arithmetic(tensor, x) for tensor in of_classes),
    )
    to_x, to_scores, to_power, to_alpha, to_sharpness = filled
    cells = (gradient, statistics)
    if name in WEIGHTED_AVERAGES:
        inputs = parameters.of_average(name, score_activation)
        call.run("average_backward", *inputs, cells, to_x, to_scores, to_power, to_alpha)
    elif name in ("max", "max_mean"):
        call.run("maximum_backward", name == "max_mean", gradient, places, to_x)
    elif name == "noisy_or":
        call.run("noisy_or_backward", cells, to_x)
    elif name == "log_mean_exp":
        call.run("log_mean_exp_backward", parameters.sharpness, learn, cells, to_x, to_sharpness)
    elif name == "class_attention":
        inputs = parameters.of_scores(score_activation)
        call.run("class_attention_backward", *inputs, cells, to_x, to_scores)
    else:
        ranks = extension.along(call.view(places), call.axis)
        call.run("rank_backward", decay, ranks, cells, to_x)
    extension.hand_over(filled, given)


class _Call:
    """What every function takes: the instances as one bag (1, classes, instances), and where the
    bags in it begin."""

    def __init__(self, x: Tensor, offsets: Tensor, from_logits: bool) -> None:
        view = x.t()[None]
        self.axis = extension.lane_axis(view)
        self.x = extension.along(view, self.axis)
        self._offsets = offsets.to(torch.int64).contiguous()
        self._arguments = (
            extension.walk(self.axis),
            self._offsets,
            from_logits,
            self.x,
        )

    @overload
    def view(self, tensor: Tensor) -> Tensor: ...
    @overload
    def view(self, tensor: Tensor | None) -> Tensor | None: ...
    def view(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.t()[None]

    def run(self, function: str, *arguments: Any) -> None:
        getattr(extension.functions, f"packed_{function}")(*self._arguments, *arguments)


class _Parameters:
    """Scores and learned parameters as the kernels read them, kept alive for a call."""

    def __init__(
        self,
        call: _Call,
        scores: Tensor | None,
        power: Tensor | None,
        alpha: Tensor | None,
        sharpness: Tensor | None,
    ) -> None:
        self.scores = extension.along(call.view(scores), call.axis)
        self.power, self.alpha, self.sharpness = (
            extension.in_arithmetic(parameter, call.x) for parameter in (power, alpha, sharpness)
        )

    def of_scores(self, activation: str | None) -> tuple[Any, ...]:
        return SCORE_ACTIVATIONS.index(activation), self.scores

    def of_average(self, name: str, activation: str | None) -> tuple[Any, ...]:
        return member_number(name), *self.of_scores(activation), self.power, self.alpha
