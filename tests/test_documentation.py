"""The docstrings: each public name has an example that runs, and formulas that can be drawn."""

import doctest
import importlib.util
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch

import milkernels
from milkernels import compat, functional, nn

BUILD = Path(__file__).parents[1] / "docs" / "build.py"

MODULES = (functional, nn, compat)
PUBLIC = {name: getattr(module, name) for module in MODULES for name in module.__all__} | {
    name: getattr(milkernels, name) for name in ("backend", "build_info")
}
#: A base class, and what `replace` reports.
WITHOUT_EXAMPLE = {"FramePool", *(name for name, value in PUBLIC.items() if is_dataclass(value))}


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT_EXAMPLE))
def test_the_example_gives_what_it_says(name):
    names = {"torch": torch, "milkernels": milkernels, **PUBLIC}
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(PUBLIC[name], name, globs=names)
    assert example.examples, f"{name} has none"
    report: list[str] = []
    results = doctest.DocTestRunner().run(example, out=report.append)
    assert results.failed == 0, "".join(report)


def test_the_pages_have_every_public_name_and_draw_every_formula(tmp_path):
    spec = importlib.util.spec_from_file_location("documentation", BUILD)
    documentation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documentation)
    documentation.build(tmp_path)
    for module in MODULES:
        page = (tmp_path / "milkernels" / f"{module.__name__.partition('.')[2]}.html").read_text()
        assert [name for name in module.__all__ if f'id="{name}"' not in page] == []
        formulas = sum(getattr(module, name).__doc__.count("$$") for name in module.__all__) // 2
        assert page.count('display="block">') == formulas
        assert "$$" not in page
