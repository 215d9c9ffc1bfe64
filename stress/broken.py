"""Calls that a sanitizer has to stop: `python -m stress.broken address` or `thread`.

The extension trusts its callers with sizes and strides: here a result is too small, or a gradient's
bags lie on top of each other, so that threads write to the same place.
"""

from __future__ import annotations

import sys

import torch

from milkernels.kernels.cpp import extension


def main() -> None:
    """Make the call that is named."""
    torch.set_num_threads(4)
    x = torch.rand(64, 8, 512)
    places = torch.zeros(2, 64, 8, dtype=torch.int64)
    if sys.argv[1] == "address":
        arguments = (extension.walk(2), x, None, torch.empty(64 * 8 - 1), places)
        extension.functions.maximum_forward(False, True, *arguments)
    else:
        everywhere = torch.empty(1, 8, 512).expand(64, 8, 512)
        arguments = (extension.walk(2), x, None, torch.ones(64, 8), places, everywhere)
        extension.functions.maximum_backward(False, True, *arguments)
    print("not stopped")


if __name__ == "__main__":
    main()
