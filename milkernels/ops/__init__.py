"""The operators: one module a family, over `library`, the one that knows torch.library."""

from milkernels.ops.class_attention import class_attention, class_attention_in_one
from milkernels.ops.gated_fusion import gated_fusion
from milkernels.ops.linear_attention import linear_attention
from milkernels.ops.log_mean_exp import log_mean_exp, log_mean_exp_in_one
from milkernels.ops.maximum import maximum, maximum_in_one
from milkernels.ops.noisy_or import noisy_or, noisy_or_in_one
from milkernels.ops.packed import packed
from milkernels.ops.pool_bce import pool_bce
from milkernels.ops.rank import rank, rank_in_one
from milkernels.ops.statistics import statistics
from milkernels.ops.weighted_average import weighted_average, weighted_average_in_one
from milkernels.ops.whole_loss import pool_bce_in_one

__all__ = [
    "class_attention",
    "class_attention_in_one",
    "gated_fusion",
    "linear_attention",
    "log_mean_exp",
    "log_mean_exp_in_one",
    "maximum",
    "maximum_in_one",
    "noisy_or",
    "noisy_or_in_one",
    "packed",
    "pool_bce",
    "pool_bce_in_one",
    "rank",
    "rank_in_one",
    "statistics",
    "weighted_average",
    "weighted_average_in_one",
]
