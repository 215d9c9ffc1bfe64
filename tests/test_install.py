"""What an installation brings, what importing it costs, and what is built where no compiler is."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from source_tree import copy_sources, files_of

IMPORTED = """
import sys, torch
before = set(sys.modules)
import milkernels
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(added - sys.stdlib_module_names))
print(torch.ops.milkernels.weighted_average.default)
"""

# Nothing is taken from an editable installation, which would lend its extension.
POOLED = """
import sys
sys.meta_path = [
    finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")
]
import milkernels, torch
print(milkernels.__file__)
print(milkernels.build_info()["serves"]["cpu"]["backend"])
print(milkernels.functional.mean_pool(torch.ones(1, 2, 3)).sum().item())
"""

LOADED = """
import pathlib, re, milkernels, torch
milkernels.functional.mean_pool(torch.rand(64, 64, 64))
mapped = pathlib.Path("/proc/self/maps").read_text()
print(*set(re.findall(r"/\\S*lib(?:gomp|i?omp)\\S*", mapped)))
"""


def run(
    *command: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return copy_sources(folder)


@pytest.fixture(scope="module")
def wheel(sources):
    """A wheel built where the compiler fails."""
    result = run("setup.py", "-q", "bdist_wheel", folder=sources, CC="false", CXX="false")
    assert result.returncode == 0, result.stderr
    (path,) = (sources / "dist").glob("*.whl")
    return path


def test_importing_brings_nothing_but_pytorch_and_itself_and_registers_the_operators():
    result = run("-c", IMPORTED)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["milkernels", "milkernels.weighted_average.default"]


def test_the_source_distribution_has_what_a_clone_has(sources, tmp_path):
    expected = files_of(copy_sources(tmp_path / "clone"))
    result = run("setup.py", "-q", "sdist", "--dist-dir", tmp_path, folder=sources)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in names if "egg-info" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == expected


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(sources, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {f"milkernels/{name}" for name in files_of(sources / "milkernels")}
    assert "milkernels/py.typed" in names


def test_without_a_compiler_the_reference_serves_and_it_is_said(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    result = run("-c", POOLED, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    where, backend, total = result.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert (backend, total) == ("reference", "2.0")
    assert "CPU tensors are served by the PyTorch reference" in result.stderr


def test_a_build_that_requires_the_kernels_fails_without_a_compiler(sources):
    environment = {"CC": "false", "CXX": "false", "MILKERNELS_REQUIRE_CPP": "1"}
    result = run("setup.py", "-q", "build_ext", folder=sources, **environment)
    assert result.returncode != 0
    assert "command '" in result.stderr.splitlines()[-1]


def test_the_kernels_run_on_the_threads_of_pytorchs_own_openmp_runtime():
    result = run("-c", LOADED)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == 1, result.stdout
