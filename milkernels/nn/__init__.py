"""Modules: one per pooling, its parameters and a call of `milkernels.functional`."""

from milkernels.nn.by_name import build_pooling, list_poolings
from milkernels.nn.embedding_level import GMAP, AttentionStatsPool, GatedFusion, TwoStepAttention
from milkernels.nn.frame_level import (
    AttentionPool,
    AutoPool,
    ExpSoftmaxPool,
    FramePool,
    LinearSoftmaxPool,
    LogMeanExpPool,
    MaxMeanPool,
    MaxPool,
    MeanPool,
    NoisyOrPool,
    PowerExpPool,
    PowerPool,
    RankPool,
)

__all__ = [
    "GMAP",
    "AttentionPool",
    "AttentionStatsPool",
    "AutoPool",
    "ExpSoftmaxPool",
    "FramePool",
    "GatedFusion",
    "LinearSoftmaxPool",
    "LogMeanExpPool",
    "MaxMeanPool",
    "MaxPool",
    "MeanPool",
    "NoisyOrPool",
    "PowerExpPool",
    "PowerPool",
    "RankPool",
    "TwoStepAttention",
    "build_pooling",
    "list_poolings",
]
