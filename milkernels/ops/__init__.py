"""The operators: one module a family, over `library`, the one that knows torch.library."""

from milkernels.ops.gated_fusion import gated_fusion
from milkernels.ops.log_mean_exp import log_mean_exp
from milkernels.ops.maximum import maximum
from milkernels.ops.noisy_or import noisy_or
from milkernels.ops.statistics import statistics
from milkernels.ops.weighted_average import weighted_average

__all__ = [
    "gated_fusion",
    "log_mean_exp",
    "maximum",
    "noisy_or",
    "statistics",
    "weighted_average",
]
