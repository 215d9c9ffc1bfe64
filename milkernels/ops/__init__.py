"""The operators: one module a family, over `library`, the one that knows torch.library."""

from milkernels.ops.maximum import maximum
from milkernels.ops.weighted_average import weighted_average

__all__ = ["maximum", "weighted_average"]
