"""The C++ kernels under a sanitizer: `python -m stress.sanitize address` or `thread`.

Builds the extension once more, with GCC, into build/SANITIZER, and runs the kernels' tests on it
and the fuzzers of tests/test_fuzz.py with many examples. AddressSanitizer, with it
UndefinedBehaviorSanitizer, stops at the first address that is not the program's, where PyTorch's
tensors end, too; ThreadSanitizer at the first race between two threads of the kernels, which this
build starts without OpenMP, because the sanitizer cannot see into its runtime.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

KERNEL_TESTS = (
    *("kernels", "layouts", "edge_cases", "long_bags", "packed", "pool_bce", "statistics"),
    *("statistics_shapes", "linear_attention", "gated_fusion", "rank", "log_mean_exp"),
    *("noisy_or", "max_mean", "kept_memory"),
    *("class_attention", "large_offsets", "pool_bce_gradients", "saturated_loss"),
    *("dominant_frames", "whole_pass", "whole_loss", "few_classes", "short_rows"),
)
#: What says nothing of the kernels' memory, or has too much of it.
LEFT_OUT = "not triton and not reference and not compile and not opcheck and not 2_to_the_31"


@dataclass(frozen=True)
class Sanitizer:
    """One build: flags of GCC, runtimes to load first, settings, tests, what they need built."""

    sanitize: str
    runtimes: tuple[str, ...]
    settings: dict[str, str]
    tests: tuple[str, ...]
    selection: str
    variants: str


SANITIZERS = {
    "address": Sanitizer(
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        {
            # Python and PyTorch keep much until they end.
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        },
        tuple(f"tests/test_{name}.py" for name in KERNEL_TESTS),
        LEFT_OUT,
        # It does not see AVX-512's masked loads and stores.
        "avx2-float avx2-BFloat16 avx2-Float16 avx2-double",
    ),
    "thread": Sanitizer(
        "thread",
        ("libtsan.so",),
        {
            "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
            "OMP_NUM_THREADS": "1",
        },
        tuple(
            f"tests/test_{name}.py"
            for name in ("long_bags", "packed", "statistics_shapes", "kept_memory")
        ),
        f"({LEFT_OUT}) and thread",
        "avx2-float avx2-double",
    ),
}


def main() -> None:
    """Build, run, and exit as the tests do."""
    parser = argparse.ArgumentParser(prog="python -m stress.sanitize", description=__doc__)
    add = parser.add_argument
    add("sanitizer", choices=SANITIZERS)
    add("--examples", type=int, default=1000, help="of each fuzzer, default 1000")
    add("--variants", help="instruction sets and elements to build; default: what the tests need")
    given = parser.parse_args()
    sanitizer = SANITIZERS[given.sanitizer]
    library = build(given.sanitizer, sanitizer, given.variants or sanitizer.variants)
    if python(sanitizer, library, "-m", "stress.broken", given.sanitizer) == 0:
        sys.exit("error: expected the sanitizer to stop a broken call, and it did not")
    selected = [*sanitizer.tests, "-k", sanitizer.selection]
    tests = pytest(sanitizer, library, selected, examples=0)
    fuzzed = pytest(sanitizer, library, ["tests/test_fuzz.py"], given.examples)
    sys.exit(tests or fuzzed)


def build(name: str, sanitizer: Sanitizer, variants: str) -> Path:
    """Build the package apart from the one in use; its folder."""
    base = Path("build") / name
    environment = {
        "MILKERNELS_SANITIZE": sanitizer.sanitize,
        "MILKERNELS_VARIANTS": variants,
        "MILKERNELS_REQUIRE_CPP": "1",
    }
    command = ["setup.py", "-q", "build", "--build-base", str(base), "--build-lib", f"{base}/lib"]
    subprocess.run([sys.executable, *command], env=os.environ | environment, cwd=ROOT, check=True)
    return base / "lib"


def pytest(sanitizer: Sanitizer, library: Path, arguments: list[str], examples: int) -> int:
    """Run tests on that build; their exit status."""
    # With -s: a report that ends the process would be lost with what pytest captures.
    plugins = ("-p", "stress.only_built", "-p", "no:cacheprovider")
    settings = ("-o", f"pythonpath={library} .")
    given = ("-m", "pytest", "-q", "-s", *plugins, *settings, *arguments)
    return python(sanitizer, library, *given, MILKERNELS_EXAMPLES=str(examples))


def python(sanitizer: Sanitizer, library: Path, *arguments: str, **variables: str) -> int:
    """Run Python on that build; its exit status."""
    # With libstdc++: the runtimes look for how it throws when they are loaded themselves.
    preloaded = [_runtime(name) for name in (*sanitizer.runtimes, "libstdc++.so.6")]
    environment = {
        **sanitizer.settings,
        "LD_PRELOAD": " ".join(preloaded),
        "PYTHONPATH": f"{ROOT / library}:{ROOT}",
        "PYTHONMALLOC": "malloc",
        **variables,
    }
    # Without randomised addresses, which ThreadSanitizer's map of the memory may not have.
    command = ["setarch", "--addr-no-randomize", sys.executable, "-P", *arguments]
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, check=False).returncode


def _runtime(name: str) -> str:
    asked = subprocess.run(
        [os.environ.get("CC", "gcc"), f"-print-file-name={name}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
