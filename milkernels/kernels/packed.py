"""Bags of different lengths in Triton: what their kernels are launched with.

Nothing here knows how long bags are: the instances are cut into chunks whatever the bags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import lanes, log_mean_exp, packed_weights, sums, tiles
from milkernels.kernels import packed_backward_kernels as backward_kernels
from milkernels.kernels import packed_kernels as kernels
from milkernels.kernels.formula import Formula
from milkernels.kernels.launch import Launch, of_classes, or_else, strides_of

#: Instances of a chunk: enough programs to fill a GPU, and few pieces of a long bag to join.
SHORTEST_CHUNK = 256
LONGEST_CHUNK = 8192
_PROGRAMS = 2048

_MERGE_CELLS = 128

#: Kernels that look for bags spill with as many as the assembler would give them.
_REGISTERS = 255

_FAMILIES = {"max": 1, "max_mean": 1, "noisy_or": 2, "log_mean_exp": 3}

#: Rows of a piece's sums.
_PART_ROWS = {"max": 1, "max_mean": 4, "noisy_or": 4}


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
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor]]:
    """Launches of a forward pass over x (instances, classes), and the outputs that they fill: y
    (bags, classes), the statistics (rows, bags, classes) and the places: of maxima (1 or 2, bags,
    classes), among all instances, or the ranks (instances, classes) if those are wanted."""
    if name == "rank":
        ranks = packed_weights.ranks(x, offsets)
        if learn:
            places.copy_(ranks)
        scores = packed_weights.of_ranks(x, ranks, decay)
    elif name == "class_attention" and scores is not None:
        scores = packed_weights.of_classes(scores, score_activation)
    thread_bytes = log_mean_exp.THREAD_BYTES if name == "log_mean_exp" else lanes.JOINED_BYTES
    pooling = _Pooling(
        x, name, score_activation, from_logits, learn, scores, thread_bytes=thread_bytes
    )
    chunks = pooling.chunks
    compute = tiles.arithmetic_dtype(x)
    rows, place_rows = _PART_ROWS.get(name, 8), 2 if name == "max_mean" else 1
    parts = 2 * chunks if chunks > 1 else 0
    outputs = {
        "y_ptr": y,
        "statistics_ptr": statistics,
        "places_ptr": places,
        "partial_ptr": x.new_empty((parts, rows, x.shape[1]), dtype=compute),
        "partial_places_ptr": x.new_empty((parts, place_rows, x.shape[1]), dtype=torch.int64),
        "ROWS": rows,
        "PLACES": place_rows,
        "LEARN": learn,
    }
    inputs = pooling.inputs(offsets, scores, power if sharpness is None else sharpness, alpha)
    tiling = pooling.tiling
    walk = Launch(
        kernels._packed_forward_kernel,
        chunks * tiling.class_blocks,
        {
            **inputs,
            **outputs,
            **pooling.constants(scores),
        },
        registers=_REGISTERS,
    )
    merged = triton.cdiv(y.shape[0], kernels.MERGED_BAGS.value)
    merge = Launch(
        kernels._packed_merge_kernel,
        merged * triton.cdiv(x.shape[1], _MERGE_CELLS),
        {
            **inputs,
            **outputs,
            **pooling.constants(),
            "COMPUTE": tiles.compute_dtype(x),
            "BLOCK_CELLS": _MERGE_CELLS,
        },
    )
    return [pooling.only(walk), pooling.only(merge)], (y, statistics, places)


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
) -> list[Launch | packed_weights.ToScores]:
    """Launches of a backward pass, which fill the gradients that are given."""
    after = []
    if name == "rank":
        scores = packed_weights.of_ranks(x, places, decay)
        scores_gradient = torch.empty_like(scores)
    elif name == "class_attention" and scores is not None and scores_gradient is not None:
        to_scores = packed_weights.ToScores(scores, score_activation, scores_gradient)
        scores, scores_gradient = to_scores.weights, to_scores.weights_gradient
        after.append(to_scores)
    if sharpness is not None:
        power, power_gradient = sharpness, sharpness_gradient
    learn = power_gradient is not None or alpha_gradient is not None
    others = (scores, x_gradient, scores_gradient)
    pooling = _Pooling(x, name, score_activation, from_logits, learn, *others)
    to_x, to_scores_view = _view(x_gradient), _view(scores_gradient)
    walk = Launch(
        backward_kernels._packed_backward_kernel,
        sums.programs(x.shape[1], learn) + pooling.chunks * pooling.tiling.class_blocks,
        {
            **pooling.inputs(offsets, scores, power, alpha),
            "gradient_ptr": gradient,
            "statistics_ptr": statistics,
            "places_ptr": places,
            "x_gradient_ptr": to_x,
            "scores_gradient_ptr": or_else(to_scores_view, x),
            "power_gradient_ptr": or_else(power_gradient, x),
            "alpha_gradient_ptr": or_else(alpha_gradient, x),
            "gradient_strides": gradient.stride(),
            "x_gradient_strides": to_x.stride(),
            "scores_gradient_strides": strides_of(to_scores_view),
            "LEARN": learn,
            **pooling.constants(*others),
        },
        registers=_REGISTERS,
    )
    return [pooling.only(walk), *after]


class _Pooling:
    """One pooling of some instances: how they are cut, and what kernels are compiled for."""

    def __init__(
        self,
        x: Tensor,
        name: str,
        score_activation: str | None,
        from_logits: bool,
        learn: bool,
        *others: Tensor | None,
        thread_bytes: int = lanes.ELEMENTWISE_BYTES,
    ) -> None:
        self._x = _view(x)
        self._name = name
        self._from_logits = from_logits
        self._formula = _formula(name, score_activation, from_logits, learn)
        self.tiling = lanes.of(self._x, *map(_view, others), whole=False, thread_bytes=thread_bytes)

    @property
    def chunk_instances(self) -> int:
        share = triton.cdiv(self._x.shape[2] * self.tiling.class_blocks, _PROGRAMS)
        return min(max(triton.next_power_of_2(share), SHORTEST_CHUNK), LONGEST_CHUNK)

    @property
    def chunks(self) -> int:
        return triton.cdiv(self._x.shape[2], self.chunk_instances)

    def inputs(
        self, offsets: Tensor, scores: Tensor | None, power: Tensor | None, alpha: Tensor | None
    ) -> dict[str, Any]:
        _, classes, instances = self._x.shape
        bags = offsets.shape[0] - 1
        return {
            "x_ptr": self._x,
            "offsets_ptr": offsets.contiguous(),
            "scores_ptr": or_else(_view(scores), self._x),
            "power_ptr": of_classes(power, self._x),
            "alpha_ptr": of_classes(alpha, self._x),
            "bags": bags,
            "classes": classes,
            "instances": instances,
            "chunk_instances": self.chunk_instances,
            "search_steps": bags.bit_length(),
            "x_strides": self._x.stride(),
            "scores_strides": strides_of(_view(scores)),
        }

    def constants(self, *others: Tensor | None) -> dict[str, Any]:
        long = self._x.shape[2] + LONGEST_CHUNK >= 2**31
        return {
            "FAMILY": _FAMILIES.get(self._name, 0),
            "FORMULA": self._formula,
            "FROM_LOGITS": self._from_logits,
            "PLUS_MEAN": self._name == "max_mean",
            "INDEX": tl.int64 if long else tl.int32,
            **self.tiling.constants(self._x, *map(_view, others)),
        }

    @staticmethod
    def only(launch: Launch) -> Launch:
        """The launch, with the arguments that its kernel takes."""
        taken = {name: launch.arguments[name] for name in launch.kernel.arg_names}
        return replace(launch, arguments=taken)


def _formula(
    name: str, score_activation: str | None, from_logits: bool, learn: bool
) -> Formula | None:
    """What a weighted average is compiled for."""
    if name in _FAMILIES:
        return None
    if name in WEIGHTED_AVERAGES:
        return Formula.of(Average(name, score_activation, from_logits, learn), masked=False)
    return Formula.of_given_weights(from_logits)


@overload
def _view(tensor: Tensor) -> Tensor: ...
@overload
def _view(tensor: Tensor | None) -> Tensor | None: ...
def _view(tensor: Tensor | None) -> Tensor | None:
    """Instances (instances, classes) as the frames of one bag (1, classes, instances)."""
    return None if tensor is None else tensor.t()[None]
