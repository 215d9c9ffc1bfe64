"""What a thread executes for each frame: `python -m benchmarks.instructions [POOLING ...]`.

Compiles the weighted averages' kernels for 64 x 527 x 400 in float32 and counts their machine code
for sm_90: every loop as often as a thread goes round it, and all that surrounds the loops, over the
frames that there are. Counts are no times; no GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
import triton
from torch import Tensor

from benchmarks.disassembly import inspect
from milkernels.family import WEIGHTED_AVERAGES, Average
from milkernels.kernels import weighted_average
from milkernels.kernels.compile import compile_launch
from milkernels.kernels.launch import Launch

_BAGS, _CLASSES, _FRAMES = 64, 527, 400
_LAYOUTS = {"contiguous frames": False, "contiguous classes": True}

#: Whether values are logits, and whether frames are masked.
_KINDS = {"probabilities": (False, False), "logits": (True, False), "masked logits": (True, True)}


def launches(name: str, from_logits: bool, masked: bool, across: bool) -> dict[str, Launch]:
    """A pooling's launches in both directions, on tensors without memory."""
    coefficients = WEIGHTED_AVERAGES[name]
    x = _frames(across)
    scores = _frames(across) if coefficients.scores else None
    power, alpha = (
        torch.empty(_CLASSES, device="meta") if kind == "learned" else None
        for kind in (coefficients.power, coefficients.alpha)
    )
    average = Average(name, None, from_logits, learn=False)
    mask = torch.empty(_BAGS, _FRAMES, dtype=torch.bool, device="meta") if masked else None
    inputs = (x, scores, power, alpha, mask)
    (forward,), (y, statistics) = weighted_average.forward(*inputs, average)
    to_scores = None if scores is None else _frames(across)
    gradients = (_frames(across), to_scores, None, None)
    (backward,) = weighted_average.backward(y, *inputs, statistics, average, *gradients)
    return {"forward": forward, "backward": backward}


def counted(launch: Launch) -> tuple[float, float]:
    """Instructions for a frame, and how many of them are special."""
    machinery = inspect(compile_launch(launch, "sm_90"))
    block = launch.arguments["BLOCK"]
    whole, rest = divmod(_FRAMES, block.step)
    rounds = (whole, triton.cdiv(rest, block.last.step))
    instructions, special = machinery.instructions, machinery.special
    for loop, times in zip(machinery.loops, rounds, strict=True):
        instructions += (times - 1) * loop.instructions
        special += (times - 1) * loop.special
    share = _FRAMES * block.classes / (32 * launch.num_warps)
    return instructions / share, special / share


def _frames(across: bool) -> Tensor:
    if across:
        return torch.empty(_BAGS, _FRAMES, _CLASSES, device="meta").mT
    return torch.empty(_BAGS, _CLASSES, _FRAMES, device="meta")


def main(arguments: list[str] | None = None) -> int:
    """Print a table. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description=__doc__)
    parser.add_argument("poolings", nargs="*", metavar="POOLING", help=", ".join(WEIGHTED_AVERAGES))
    names = parser.parse_args(arguments).poolings or list(WEIGHTED_AVERAGES)
    if unknown := set(names) - set(WEIGHTED_AVERAGES):
        expected = ", ".join(WEIGHTED_AVERAGES)
        parser.error(f"POOLING: expected one of {expected}, got {min(unknown)!r}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        print("benchmarks.instructions: unset TRITON_INTERPRET", file=sys.stderr)
        return 2
    print("|", *_LAYOUTS, sep=" | ", end=" |\n")
    print("|" + " --- |" * (1 + len(_LAYOUTS)))
    for name in names:
        for kind, (from_logits, masked) in _KINDS.items():
            by_layout = [
                launches(name, from_logits, masked, across) for across in _LAYOUTS.values()
            ]
            for direction in by_layout[0]:
                counts = (counted(found[direction]) for found in by_layout)
                cells = [f"{count:.1f} ({special:.1f})" for count, special in counts]
                print("|", f"{name}, {kind}, {direction}", "|", " | ".join(cells), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
