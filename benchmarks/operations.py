"""Everything that can be timed, by name."""

from __future__ import annotations

from benchmarks.cases import Operation
from benchmarks.embedding_level import LinearAttention, Statistics
from benchmarks.frame_level import LOSSES, POOLINGS
from benchmarks.packed import Packed

#: The weighted averages, which the targets for the CPU are about.
CORE = ("mean", "linear_softmax", "exp_softmax", "auto", "power", "power_exp", "attention")

_PACKED = tuple(Packed(pooling) for pooling in POOLINGS if pooling.name in ("mean", "max", "power"))

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (*POOLINGS, Statistics(), LinearAttention(), *LOSSES, *_PACKED)
}
