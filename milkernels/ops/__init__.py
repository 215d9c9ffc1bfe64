"""The operators: one module a family, over `library`, the one that knows torch.library."""

from milkernels.ops.class_attention import class_attention
from milkernels.ops.gated_fusion import gated_fusion
from milkernels.ops.linear_attention import linear_attention
from milkernels.ops.log_mean_exp import log_mean_exp
from milkernels.ops.maximum import maximum
from milkernels.ops.noisy_or import noisy_or
from milkernels.ops.packed import packed
from milkernels.ops.pool_bce import pool_bce
from milkernels.ops.rank import rank
from milkernels.ops.statistics import statistics
from milkernels.ops.weighted_average import weighted_average

__all__ = [
    "class_attention",
    "gated_fusion",
    "linear_attention",
    "log_mean_exp",
    "maximum",
    "noisy_or",
    "packed",
    "pool_bce",
    "rank",
    "statistics",
    "weighted_average",
]
