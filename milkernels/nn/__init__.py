"""Modules: one per pooling, its parameters and a call of `milkernels.functional`."""

from milkernels.nn.embedding_level import GMAP, AttentionStatsPool, GatedFusion, TwoStepAttention
from milkernels.nn.frame_level import (
    AttentionPool,
    AutoPool,
    ExpSoftmaxPool,
    FramePool,
    LinearSoftmaxPool,
    MaxPool,
    MeanPool,
    PowerExpPool,
    PowerPool,
    build_pooling,
    list_poolings,
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
    "MaxPool",
    "MeanPool",
    "PowerExpPool",
    "PowerPool",
    "TwoStepAttention",
    "build_pooling",
    "list_poolings",
]
