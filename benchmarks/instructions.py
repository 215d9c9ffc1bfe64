"""What a thread executes for each frame: `python -m benchmarks.instructions [POOLING ...]`.

Compiles the weighted averages' kernels for 64 x 527 x 400 (or as many --frames) in float32 and
counts their machine code for sm_90: every loop as often as a thread goes round it, and all that
surrounds the loops, over the frames that there are. Of linear attention, for many rows of 64, it
counts the loop over tiles, over the elements of one. Counts are no times; no GPU is needed.
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
from milkernels.kernels import linear_attention, weighted_average
from milkernels.kernels.compile import compile_launch
from milkernels.kernels.launch import Launch

_BAGS, _CLASSES, _FRAMES = 64, 527, 400
_LAYOUTS = {"contiguous frames": False, "contiguous classes": True}

#: Rows of linear attention, and how they are multiplied.
LINEAR_ATTENTION = "linear_attention"
_ROWS, _ROW = 306_024, 64
_PRODUCTS = {
    "float32": (torch.float32, "ieee"),
    "TensorFloat-32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
}

#: Whether values are logits, and whether frames are masked.
_KINDS = {"probabilities": (False, False), "logits": (True, False), "masked logits": (True, True)}


def launches(
    name: str, from_logits: bool, masked: bool, across: bool, frames: int
) -> dict[str, Launch]:
    """A pooling's launches in both directions, on tensors without memory."""
    coefficients = WEIGHTED_AVERAGES[name]
    x = _frames(across, frames)
    scores = torch.empty_like(x) if coefficients.scores else None
    power, alpha = (
        torch.empty(_CLASSES, device="meta") if kind == "learned" else None
        for kind in (coefficients.power, coefficients.alpha)
    )
    average = Average(name, None, from_logits, learn=False)
    mask = torch.empty(_BAGS, frames, dtype=torch.bool, device="meta") if masked else None
    inputs = (x, scores, power, alpha, mask)
    (forward,), (y, statistics) = weighted_average.forward(*inputs, average)
    to_scores = None if scores is None else torch.empty_like(scores)
    gradients = (torch.empty_like(x), to_scores, None, None)
    (backward,) = weighted_average.backward(y, *inputs, statistics, average, *gradients)
    return {"forward": forward, "backward": backward}


def counted(launch: Launch) -> tuple[float, float]:
    """Instructions for a frame, and how many of them are special."""
    machinery = inspect(compile_launch(launch, "sm_90"))
    block = launch.arguments["BLOCK"]
    frames = launch.arguments["frames"]
    whole, rest = divmod(frames, block.step)
    rounds = (whole, triton.cdiv(rest, block.last.step))
    instructions, special = machinery.instructions, machinery.special
    for loop, times in zip(machinery.loops, rounds, strict=True):
        instructions += (times - 1) * loop.instructions
        special += (times - 1) * loop.special
    share = frames * block.classes / (32 * launch.num_warps)
    return instructions / share, special / share


def counted_of_rows(launch: Launch) -> float:
    """Instructions for an element of a row, which each of a row's programs reads."""
    machinery = inspect(compile_launch(launch, "sm_90"))
    walk = max(machinery.loops, key=lambda loop: loop.instructions)
    outputs = launch.arguments.get("BLOCK_OUTPUTS", _ROW)
    share = launch.arguments["BLOCK_ROWS"] * outputs / (32 * launch.num_warps)
    return walk.instructions / share


def launches_of_rows(dtype: torch.dtype, precision: str) -> dict[str, Launch]:
    """Launches of linear attention, told how PyTorch multiplies float32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    z = torch.empty(_ROWS, _ROW, dtype=dtype, device="meta")
    y = torch.empty(_ROWS, dtype=dtype, device="meta")
    layers = [torch.empty(size, dtype=dtype, device="meta") for size in ((_ROW, _ROW), (_ROW,)) * 2]
    statistics = torch.empty(3 * _ROWS, device="meta")
    try:
        (forward,), _ = linear_attention.forward(z, layers, "paper", y, statistics)
        of_z, of_layers, _ = linear_attention.backward(
            y, z, layers, statistics, "paper", z, [*layers]
        )
    finally:
        matmul.fp32_precision = before
    return {"forward": forward, "gradient of z": of_z, "gradients of the layers": of_layers}


def _print_averages(names: list[str], frames: int) -> None:
    print("|", *_LAYOUTS, sep=" | ", end=" |\n")
    print("|" + " --- |" * (1 + len(_LAYOUTS)))
    for name in names:
        for kind, (from_logits, masked) in _KINDS.items():
            by_layout = [
                launches(name, from_logits, masked, across, frames) for across in _LAYOUTS.values()
            ]
            for direction in by_layout[0]:
                counts = (counted(found[direction]) for found in by_layout)
                cells = [f"{count:.1f} ({special:.1f})" for count, special in counts]
                print("|", f"{name}, {kind}, {direction}", "|", " | ".join(cells), "|", flush=True)


def _print_rows() -> None:
    print("|", *_PRODUCTS, sep=" | ", end=" |\n")
    print("|" + " --- |" * (1 + len(_PRODUCTS)))
    of_each = [launches_of_rows(*product) for product in _PRODUCTS.values()]
    for step in of_each[0]:
        cells = [f"{counted_of_rows(launches[step]):.1f}" for launches in of_each]
        print("|", f"{LINEAR_ATTENTION}, {step}", "|", " | ".join(cells), "|", flush=True)


def _frames(across: bool, frames: int) -> Tensor:
    if across:
        return torch.empty(_BAGS, frames, _CLASSES, device="meta").mT
    return torch.empty(_BAGS, _CLASSES, frames, device="meta")


def main(arguments: list[str] | None = None) -> int:
    """Print a table. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description=__doc__)
    known = [*WEIGHTED_AVERAGES, LINEAR_ATTENTION]
    parser.add_argument("poolings", nargs="*", metavar="POOLING", help=", ".join(known))
    parser.add_argument("--frames", type=int, default=_FRAMES, help="of a bag: %(default)s")
    given = parser.parse_args(arguments)
    if given.frames < 1:
        parser.error(f"--frames: expected at least 1, got {given.frames}")
    names = given.poolings or known
    if unknown := set(names) - set(known):
        expected = ", ".join(known)
        parser.error(f"POOLING: expected one of {expected}, got {min(unknown)!r}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        print("benchmarks.instructions: unset TRITON_INTERPRET", file=sys.stderr)
        return 2
    averages = [name for name in names if name != LINEAR_ATTENTION]
    if averages:
        _print_averages(averages, given.frames)
    if LINEAR_ATTENTION in names:
        if averages:
            print()
        _print_rows()
    return 0


if __name__ == "__main__":
    sys.exit(main())
