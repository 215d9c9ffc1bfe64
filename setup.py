"""Builds the C++ kernels: each instruction set and element type is one compilation of one file.

Where no compiler works, the package is installed without them and says so when it is imported.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("csrc")
X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = {"portable": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mavx2", "-mfma"),
    ]
ELEMENTS = ("double", "float", "BFloat16", "Float16")
FLAGS = [
    *("-std=c++17", "-O2", "-g0", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-fvisibility=hidden"),
]


class BuildKernels(build_ext):
    """Compiles the kernels in parallel, and gives them to the linker with the module's objects."""

    def build_extension(self, extension: Pybind11Extension) -> None:
        flags = list(FLAGS)
        openmp = self._openmp()
        flags += openmp
        if X86:
            extension.define_macros.append(("MILKERNELS_X86", "1"))
        if os.environ.get("MILKERNELS_WERROR"):
            flags.append("-Werror")
        extension.extra_compile_args = flags
        extension.extra_link_args = openmp
        extension.extra_objects = self._compile_kernels(flags)
        super().build_extension(extension)

    def _compile_kernels(self, flags: list[str]) -> list[str]:
        pairs = [(name, element) for name in INSTRUCTION_SETS for element in ELEMENTS]
        # Each job works in the pool's thread: the compiler object only spawns processes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(lambda pair: self._compile(*pair, flags), pairs)
            return [path for paths in objects for path in paths]

    def _compile(self, instruction_set: str, element: str, flags: list[str]) -> list[str]:
        macros = [("MILKERNELS_INSTRUCTION_SET", instruction_set), ("MILKERNELS_ELEMENT", element)]
        return self.compiler.compile(
            [str(SOURCES / "kernels.cpp")],
            output_dir=str(Path(self.build_temp) / f"{instruction_set}-{element}"),
            macros=macros,
            extra_postargs=[*flags, *INSTRUCTION_SETS[instruction_set]],
            depends=[str(path) for path in SOURCES.glob("*.h")],
        )

    def _openmp(self) -> list[str]:
        """The flag for OpenMP, if the compiler takes it."""
        if os.environ.get("MILKERNELS_OPENMP", "1") == "0":
            return []
        probe = Path(self.build_temp) / "openmp.cpp"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() == 0; }\n")
        try:
            objects = self.compiler.compile([str(probe)], extra_postargs=["-fopenmp"])
            self.compiler.link_executable(
                objects, str(probe.with_suffix("")), extra_postargs=["-fopenmp"]
            )
        except Exception:
            return []
        return ["-fopenmp"]


extension = Pybind11Extension(
    "milkernels._C",
    [str(SOURCES / name) for name in ("bindings.cpp", "dispatch.cpp")],
    depends=[str(path) for path in SOURCES.glob("*.h")],
)
# Without it a missing compiler fails the build: wheels must not lose their kernels unnoticed.
extension.optional = os.environ.get("MILKERNELS_REQUIRE_CPP") != "1"

if sys.platform == "win32":
    setup()
else:
    setup(ext_modules=[extension], cmdclass={"build_ext": BuildKernels})
