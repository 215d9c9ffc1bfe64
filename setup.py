"""Builds the C++ kernels: each family's file is compiled for each instruction set and element type.

Where no compiler works, the package is installed without them and says so when it is imported.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("csrc")
COMMON_SOURCES = [
    *sorted(SOURCES.glob("*bindings.cpp")),
    *(
        SOURCES / f"{name}.cpp"
        for name in ("dispatch", "kept_memory", "pool_bce", "results", "tensors")
    ),
]
KERNEL_SOURCES = sorted(set(SOURCES.glob("*.cpp")) - set(COMMON_SOURCES))
X86 = platform.machine().lower() in ("x86_64", "amd64")
INSTRUCTION_SETS = {"portable": []}
if X86:
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mavx2", "-mfma"),
    ]
ELEMENTS = ("double", "float", "BFloat16", "Float16")
#: Double precision is for checking: on AVX-512 the kernels of AVX2 serve it.
VARIANTS = [
    f"{instruction_set}-{element}"
    for instruction_set, element in product(INSTRUCTION_SETS, ELEMENTS)
    if (instruction_set, element) != ("avx512", "double")
]
#: On x86 GCC leaves instructions in the order of the source: dependent chains, each of which
#: fills the processor's window before the next begins.
SCHEDULED = ["-fschedule-insns", "-fsched-pressure"]
FLAGS = [
    *("-std=c++17", "-O2", "-g0", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-fvisibility=hidden"),
]


def variants() -> list[str]:
    """What to build: all, or those that a developer names."""
    chosen = os.environ.get("MILKERNELS_VARIANTS", "").split() or VARIANTS
    unknown = next((name for name in chosen if name not in VARIANTS), None)
    if unknown is not None:
        raise ValueError(f"MILKERNELS_VARIANTS: expected some of {VARIANTS}, got {unknown}")
    return chosen


def sanitizing() -> list[str]:
    """Flags for a build that finds its own faults, slowly: see `make sanitize`."""
    sanitizers = os.environ.get("MILKERNELS_SANITIZE")
    if not sanitizers:
        return []
    return [f"-fsanitize={sanitizers}", "-O1", "-g1", "-fno-omit-frame-pointer"]


class Job(NamedTuple):
    """A source to compile, and the folder of its object."""

    source: Path
    folder: str
    macros: list[tuple[str, str | None]]
    flags: list[str]


def flags_of(target: Path) -> Path:
    """Where the flags that an object was compiled with are kept."""
    return target.with_suffix(".flags")


def is_current(target: Path, flags: list[str]) -> bool:
    """Whether an object is newer than what it was made from, by the compiler's own list."""
    made_from = target.with_suffix(".d")
    known = flags_of(target)
    if not (target.exists() and made_from.exists() and known.exists()):
        return False
    if known.read_text() != " ".join(flags):
        return False
    names = made_from.read_text().replace("\\\n", " ").split()[1:]
    built = target.stat().st_mtime
    return all(Path(name).exists() and Path(name).stat().st_mtime < built for name in names)


class BuildKernels(build_ext):
    """Compiles in parallel, and only what has changed, and leaves the linking to its base."""

    def build_extension(self, extension: Pybind11Extension) -> None:
        flags = list(FLAGS)
        sanitizers = sanitizing()
        openmp = self._openmp()
        flags += [*openmp, *sanitizers]
        table = " ".join(f"KERNELS({name.replace('-', ',')})" for name in variants())
        extension.define_macros.append(("MILKERNELS_VARIANTS(KERNELS)", table))
        if os.environ.get("MILKERNELS_WERROR"):
            flags.append("-Werror")
        extension.extra_link_args = [*openmp, *sanitizers[:1]]
        extension.extra_objects = self._compile_all(extension, flags)
        extension.sources, extension.depends = [], extension.extra_objects
        super().build_extension(extension)

    def _compile_all(self, extension: Pybind11Extension, flags: list[str]) -> list[str]:
        schedules = not sanitizing() and self._compiles(["-Werror", *SCHEDULED])
        scheduled = SCHEDULED if schedules else []
        jobs: list[Job] = []
        for source, variant in product(KERNEL_SOURCES, variants()):
            instruction_set, element = variant.split("-")
            macros = [
                ("MILKERNELS_INSTRUCTION_SET", instruction_set),
                ("MILKERNELS_ELEMENT", element),
            ]
            ours = [*flags, *scheduled, *INSTRUCTION_SETS[instruction_set]]
            jobs.append(Job(source, variant, macros, ours))
        macros = extension.define_macros
        jobs += [Job(source, ".", macros, flags) for source in COMMON_SOURCES]
        includes = [*self.include_dirs, *extension.include_dirs]
        # Each job works in the pool's thread: the compiler object only spawns processes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda job: self._compile(job, includes), jobs))

    def _compile(self, job: Job, includes: list[str]) -> str:
        folder = Path(self.build_temp) / job.folder
        target = folder / job.source.with_suffix(".o")
        made_with = [*job.flags, *(f"{name}={value}" for name, value in job.macros)]
        if not self.force and is_current(target, made_with):
            return str(target)
        (compiled,) = self.compiler.compile(
            [str(job.source)],
            output_dir=str(folder),
            macros=job.macros,
            include_dirs=includes,
            extra_postargs=[*job.flags, "-MMD"],
        )
        flags_of(target).write_text(" ".join(made_with))
        return compiled

    def _compiles(self, flags: list[str], source: str = "int main() { return 0; }\n") -> bool:
        """Whether the compiler and the linker take a program with these flags."""
        probe = Path(self.build_temp) / "probe.cpp"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text(source)
        try:
            objects = self.compiler.compile(
                [str(probe)], output_dir=self.build_temp, extra_postargs=flags
            )
            self.compiler.link_executable(objects, str(probe.with_suffix("")), extra_postargs=flags)
        except Exception:
            return False
        return True

    def _openmp(self) -> list[str]:
        """The flag for OpenMP, if the compiler takes it."""
        if os.environ.get("MILKERNELS_OPENMP", "1") == "0":
            return []
        uses_it = "#include <omp.h>\nint main() { return omp_get_max_threads() == 0; }\n"
        return ["-fopenmp"] if self._compiles(["-fopenmp"], uses_it) else []


extension = Pybind11Extension(
    "milkernels._C",
    [str(path) for path in COMMON_SOURCES],
    depends=[str(path) for path in (*SOURCES.glob("*.h"), *KERNEL_SOURCES)],
)
# Without it a missing compiler fails the build: wheels must not lose their kernels unnoticed.
extension.optional = os.environ.get("MILKERNELS_REQUIRE_CPP") != "1"

if sys.platform == "win32":
    setup()
else:
    setup(ext_modules=[extension], cmdclass={"build_ext": BuildKernels})
