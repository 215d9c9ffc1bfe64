"""The operators of every frame-level pooling over bags of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milkernels import reference, validation
from milkernels.family import SHORT_BAG, WEIGHTED_AVERAGES
from milkernels.ops.library import Family, apply, differentiates, kernels, register
from milkernels.ops.results import empty_like

NAME = "packed"

#: The inputs after x and the offsets; all but the scores are of each class.
_PARAMETERS = ("scores", "power", "alpha", "sharpness")


def packed(
    name: str,
    x: Tensor,
    offsets: Tensor,
    *,
    scores: Tensor | None = None,
    power: Tensor | None = None,
    alpha: Tensor | None = None,
    sharpness: Tensor | None = None,
    score_activation: str | None = None,
    decay: float = 1.0,
    from_logits: bool = False,
    backend: str,
) -> Tensor:
    """Bag values (bags, classes) of one pooling; arguments are checked by the caller. Attention
    that is normalised over the classes is called "class_attention"."""
    # Of a rank pooling: whether ranks are kept.
    learn = differentiates(x) if name == "rank" else differentiates(power, alpha, sharpness)
    options = (name, score_activation, float(decay), from_logits, learn, backend)
    return apply(NAME, (x, offsets, scores, power, alpha, sharpness), options)


def _rows(name: str, learn: bool, backend: str) -> int:
    """Rows of the statistics, as the pooling's own operators have them."""
    if name in WEIGHTED_AVERAGES:
        learned = WEIGHTED_AVERAGES[name].learned
        return 3 + (len(learned) if learn and backend == "triton" else 0)
    if name in ("class_attention", "rank") and backend == "triton":
        return 3
    return {"noisy_or": 3, "log_mean_exp": 2 + learn, "class_attention": 2, "rank": 1}.get(name, 0)


def _empty_outputs(
    x: Tensor, offsets: Tensor, name: str, learn: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the statistics, and the places of maxima or the ranks of instances. In C++ a bag's rows of
    statistics lie together, (bags, rows, classes), in Triton each row's bags."""
    shape = offsets.shape[0] - 1, x.shape[1]
    rows = _rows(name, learn, backend)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    of_rows = (rows, *shape) if backend == "triton" else (shape[0], rows, shape[1])
    statistics = x.new_empty(of_rows, dtype=compute)
    if name in ("max", "max_mean"):
        places = x.new_empty((1 + (name == "max_mean"), *shape), dtype=torch.int64)
    elif name == "rank" and learn:
        short = x.shape[0] <= SHORT_BAG and backend != "triton"
        places = empty_like(x, dtype=torch.int16 if short else torch.int32)
    else:
        places = x.new_empty(0, dtype=torch.int64)
    return x.new_empty(shape), statistics, places


def _forward(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if offsets.device.type == "cpu":
        validation.offset_values(offsets, x.shape[0])
    outputs = _empty_outputs(x, offsets, name, learn, backend)
    options = (name, score_activation, decay, from_logits, learn)
    kernels(backend, NAME).forward(x, offsets, scores, power, alpha, sharpness, *options, *outputs)
    return outputs


def _forward_fake(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(x, offsets, name, learn, backend)


def _empty_gradients(inputs: tuple[Tensor | None, ...], needs: list[bool]) -> list[Tensor | None]:
    """x's gradient and those of the scores and parameters in need: power's and alpha's together."""
    x, _, scores, power, alpha, sharpness = inputs
    learn = needs[3] or needs[4]
    wanted = ((x, True), (scores, True), (power, learn), (alpha, learn), (sharpness, needs[5]))
    return [empty_like(tensor) if tensor is not None and fill else None for tensor, fill in wanted]


def _needed(gradients: list[Tensor | None], needs: list[bool]) -> list[Tensor]:
    wanted = [needs[0], *needs[2:]]
    pairs = zip(gradients, wanted, strict=True)
    return [gradient for gradient, want in pairs if want and gradient is not None]


def _backward(
    gradient: Tensor,
    x: Tensor,
    offsets: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    sharpness: Tensor | None,
    statistics: Tensor,
    places: Tensor,
    needs: list[bool],
    name: str,
    score_activation: str | None,
    decay: float,
    from_logits: bool,
    learn: bool,
    backend: str,
) -> list[Tensor]:
    inputs = (x, offsets, scores, power, alpha, sharpness)
    gradients = _empty_gradients(inputs, needs)
    options = (name, score_activation, decay, from_logits, learn)
    kernels(backend, NAME).backward(gradient, *inputs, statistics, places, *options, *gradients)
    return _needed(gradients, needs)


def _backward_fake(
    gradient: Tensor,
    x: Tensor,
    offsets: Tensor,
    scores: Tensor | None,
    power: Tensor | None,
    alpha: Tensor | None,
    sharpness: Tensor | None,
    statistics: Tensor,
    places: Tensor,
    needs: list[bool],
    *_: object,
) -> list[Tensor]:
    return _needed(_empty_gradients((x, offsets, scores, power, alpha, sharpness), needs), needs)


def _reference(
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
    *_: object,
) -> Tensor:
    tensors = zip(_PARAMETERS, (scores, power, alpha, sharpness), strict=True)
    arguments: dict[str, Any] = {key: tensor for key, tensor in tensors if tensor is not None}
    if name == "rank":
        arguments["decay"] = decay
    if scores is not None:
        arguments["score_activation"] = score_activation
    if name == "class_attention":
        name, arguments["normalize"] = "attention", "classes"
    return reference.pool_packed(name, x, offsets, from_logits=from_logits, **arguments)


register(
    Family(
        name=NAME,
        tensors="Tensor x, Tensor offsets, Tensor? scores, Tensor? power, Tensor? alpha, "
        "Tensor? sharpness",
        options="str name, str? score_activation, float decay, bool from_logits, bool learn, "
        "str backend",
        saved=2,
        forward=_forward,
        forward_fake=_forward_fake,
        backward=_backward,
        backward_fake=_backward_fake,
        reference=_reference,
    )
)
