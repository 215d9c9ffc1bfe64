"""Memory that is kept between calls."""

from __future__ import annotations

from milkernels.kernels.cpp import extension


def empty_cache() -> int:
    """Give back the CPU memory that is kept of dropped gradients. Returns its bytes.

    Gradients of frames of 1 MiB or more lie in memory that is kept when they are dropped, up to
    `MILKERNELS_KEPT_MIB` (512) MiB of it: new memory comes zeroed from the system, which takes as
    long as the kernels. Such a gradient's memory cannot be resized in place. On GPUs PyTorch's own
    allocator does the same (`torch.cuda.empty_cache`).
    """
    functions = extension.functions
    return 0 if functions is None else int(functions.release_kept_memory())
