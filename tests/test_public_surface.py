"""What users may rely on changes only together with its list."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path

import public_surface
import pytest

from milkernels import functional, reference

LISTED = Path(__file__).with_name("public_surface.txt").read_text().splitlines()


def test_names_and_signatures_are_those_listed():
    difference = list(
        difflib.unified_diff(LISTED, public_surface.lines(), "public_surface.txt", "the package")
    )
    assert difference == [], "\n".join(difference)


def test_the_reference_has_the_functions_and_the_weights_behind_them():
    assert set(reference.__all__) == {*functional.__all__, "FRAME_WEIGHTS"}


@pytest.mark.parametrize("name", functional.__all__)
def test_the_references_function_takes_what_ours_does(name):
    ours, oracle = getattr(functional, name), getattr(reference, name)
    assert inspect.signature(oracle) == inspect.signature(ours)
