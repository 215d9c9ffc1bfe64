"""What `import milkernels` takes beyond `import torch`: fresh interpreters, in turns.

python -m benchmarks.import_time --rounds 20
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

_TIMED = """
import time
import torch
began = time.perf_counter()
import milkernels
print(time.perf_counter() - began)
"""


def seconds_of_an_import() -> float:
    """Seconds that the import takes in a new interpreter that has imported torch."""
    result = subprocess.run(
        [sys.executable, "-c", _TIMED], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="interpreters started (20)")
    options = parser.parse_args(arguments)
    seconds = sorted(seconds_of_an_import() for _ in range(options.rounds))
    print(
        f"import milkernels beyond torch, seconds of {options.rounds} imports: "
        f"least {seconds[0]:.3f}, median {statistics.median(seconds):.3f}, most {seconds[-1]:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
