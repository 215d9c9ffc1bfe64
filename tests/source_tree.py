"""A copy of the sources, to build from or to change, without what was built here."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("*.md", "*.py", "*.toml", "*.txt", "LICENSE", "MANIFEST.in", "Makefile")
_BUILT = shutil.ignore_patterns("__pycache__", "*.so", ".gitignore")


def copy_sources(target: Path) -> Path:
    """The folder `target`, made with all files that a clone has."""
    for folder in ROOT.iterdir():
        if any(folder.glob("*.py")) or any(folder.glob("*.cpp")):
            shutil.copytree(folder, target / folder.name, ignore=_BUILT)
    for pattern in FILES:
        for path in ROOT.glob(pattern):
            shutil.copy(path, target)
    return target


def files_of(folder: Path) -> set[str]:
    """Paths of all files in it, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
