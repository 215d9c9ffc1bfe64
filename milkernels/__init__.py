"""Fused pooling kernels for multiple-instance learning: bags of frames in, bag values out."""

from milkernels import compat, functional, nn, reference
from milkernels.backends import backend, build_info, warn_if_incomplete
from milkernels.memory import empty_cache

__version__ = "0.1.0"
__all__ = ["backend", "build_info", "compat", "empty_cache", "functional", "nn", "reference"]

warn_if_incomplete()
