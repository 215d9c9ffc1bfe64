"""A weighted average is added in few lines, and all that is promised of poolings holds for it."""

import os
import re
import subprocess
import sys

import pytest
from added_pooling import ADDITIONS, NAME
from source_tree import ROOT, copy_sources

#: Tests that take their poolings from the family.
SUBJECTS = (
    *("test_kernels", "test_edge_cases", "test_nn", "test_frame_weights", "test_packed"),
    *("test_pool_bce", "test_papers", "test_documentation", "test_public_surface"),
)


@pytest.fixture(scope="module")
def changed_sources(tmp_path_factory):
    folder = copy_sources(tmp_path_factory.mktemp("sources"))
    for library in (ROOT / "milkernels").glob("*.so"):
        (folder / "milkernels" / library.name).symlink_to(library)
    for addition in ADDITIONS:
        addition.apply(folder)
    return folder


def test_the_steps_take_less_than_sixty_lines():
    lines = [line for addition in ADDITIONS for line in addition.text.split("\n")]
    assert len([line for line in lines if line]) < 60


def test_what_holds_for_poolings_holds_for_the_new_one(changed_sources):
    environment = {**os.environ, "PYTHONPATH": str(changed_sources)}

    def python(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *command],
            cwd=changed_sources,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    surface = python("tests/public_surface.py").stdout
    (changed_sources / "tests" / "public_surface.txt").write_text(surface)
    files = [f"tests/{subject}.py" for subject in SUBJECTS]
    chosen = f"({NAME} or LinearExp) and not triton"
    result = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files)
    assert result.returncode == 0, result.stdout
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 50
