"""The oracle: every pooling in plain PyTorch, written from the papers' formulas.

Same names and signatures as `milkernels.functional`. Slow and differentiable to any order; float64
inputs give the truth that the kernels are held to. Half-precision inputs are computed in float32.
"""

from milkernels.reference.frame_weights import FRAME_WEIGHTS, frame_weights
from milkernels.reference.gated_fusion import gated_fusion
from milkernels.reference.linear_attention import linear_attention_pool
from milkernels.reference.log_mean_exp import log_mean_exp_pool
from milkernels.reference.maximum import max_mean_pool, max_pool
from milkernels.reference.noisy_or import noisy_or_pool
from milkernels.reference.packed import pool_packed
from milkernels.reference.pool_bce import pool_bce
from milkernels.reference.rank import rank_pool
from milkernels.reference.statistics import attention_stats_pool, weighted_stats_pool
from milkernels.reference.weighted_average import (
    attention_pool,
    auto_pool,
    exp_softmax_pool,
    linear_softmax_pool,
    mean_pool,
    power_exp_pool,
    power_pool,
)

__all__ = [
    "FRAME_WEIGHTS",
    "attention_pool",
    "attention_stats_pool",
    "auto_pool",
    "exp_softmax_pool",
    "frame_weights",
    "gated_fusion",
    "linear_attention_pool",
    "linear_softmax_pool",
    "log_mean_exp_pool",
    "max_mean_pool",
    "max_pool",
    "mean_pool",
    "noisy_or_pool",
    "pool_bce",
    "pool_packed",
    "power_exp_pool",
    "power_pool",
    "rank_pool",
    "weighted_stats_pool",
]
