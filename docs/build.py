"""Builds the API's documentation from the docstrings: `make docs`.

Formulas between dollars become MathML, which browsers draw themselves: the pages need no network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc
import torch
from pdoc import render, render_helpers

MODULES = ("milkernels", r"!milkernels\.(functional|reference|nn|compat)\..+")


def build(folder: Path) -> None:
    """Write the pages of the public modules into `folder`, index.html first."""
    render_helpers.markdown_extensions["latex"] = None
    # PyTorch's word on its own constructor would stand under each module's.
    torch.nn.Module.__init__.__doc__ = None
    render.configure(
        docformat="google",
        include_undocumented=False,
        show_source=False,
        template_directory=Path(__file__).parent,
    )
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
