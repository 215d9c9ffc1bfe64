"""What `import milkernels` takes beyond `import torch`, in new interpreters."""

from __future__ import annotations

import statistics
import subprocess
import sys

_IMPORTS = 20
_TIMED = """
import time
import torch
began = time.perf_counter()
import milkernels
print(time.perf_counter() - began)
"""


def seconds_of_an_import() -> float:
    """Seconds that the import takes in an interpreter that has imported PyTorch."""
    result = subprocess.run(
        [sys.executable, "-c", _TIMED], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def main() -> None:
    seconds = sorted(seconds_of_an_import() for _ in range(_IMPORTS))
    print(
        f"import milkernels after torch, seconds of {_IMPORTS} imports: least {seconds[0]:.3f}, "
        f"median {statistics.median(seconds):.3f}, most {seconds[-1]:.3f}"
    )


if __name__ == "__main__":
    main()
