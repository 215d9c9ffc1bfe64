"""Tests of the Triton kernels on what they are compiled to: `python -m stress.emulate [TESTS]`.

Triton compiles each launch for a GPU that is not here, and its PTX is executed on the CPU (see
`stress.emulator`). What its interpreter does not know is as on the GPU: small numbers that exp2
loses, approximate quotients, exchanges between threads, shared memory, matrix units. Arguments that
are not this program's are pytest's; without any, all tests of the Triton backend run, hours on two
cores. What has to do with the interpreter itself is not for this program.
"""

from __future__ import annotations

import argparse
import os
import sys

import pytest

from stress.sanitize import ROOT


def main() -> None:
    """Run, and exit as pytest does."""
    os.environ["TRITON_INTERPRET"] = "0"
    # Only now: Triton's decorators read the variable when they are imported.
    from stress.emulator.launches import SHARED_MEMORY, Emulator, emulated  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m stress.emulate", description=__doc__)
    add = parser.add_argument
    add("--target", choices=SHARED_MEMORY, default="sm_90", help="the GPU, default sm_90")
    add(
        "--error",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the largest errors that NVIDIA documents of its approximations, default 0",
    )
    given, others = parser.parse_known_args()
    sys.path.insert(0, str(ROOT / "tests"))
    tests = others or [str(ROOT / "tests")]
    with emulated(Emulator(given.target, given.error)) as emulator:
        code = pytest.main(["-p", "no:cacheprovider", "-k", "triton", *tests])
    print(f"stress.emulate: {emulator.launched} launches for {given.target}")
    sys.exit(code)


if __name__ == "__main__":
    main()
