"""What a compiled kernel uses and how wide it reads and writes, from its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import triton
from triton.compiler import CompiledKernel

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

#: LDG, STG: global memory. LDGSTS copies from there to shared memory. LDL, STL: spilled registers.
_SASS_ACCESS = re.compile(r"\b(LDGSTS|LDG|STG|LDL|STL)((?:\.\w+)*)")
_SASS_USE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SASS_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}

#: With a rounding of its own, `add.rn.f32`, an operation is not joined with another.
_PTX_OPEN = re.compile(r"\b(?:add|sub|mul)\.f(?:32|64)\b")

#: An instruction, a label, and where a branch goes.
_SASS_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)$")
_SASS_LABEL = re.compile(r"^(\.L_x_\d+):")
_SASS_TARGET = re.compile(r"\.L_x_\d+")

_GCN_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(\w+)")
_GCN_BITS = {
    **{"ubyte": 8, "sbyte": 8, "byte": 8, "ushort": 16, "sshort": 16, "short": 16},
    **{"dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128},
}


@dataclass(frozen=True)
class Loop:
    """Of one round of a thread: instructions, those of them for exponentials and quotients, of
    which an eighth as many can be begun in a cycle, and how often threads wait for one another."""

    instructions: int
    special: int
    waits: int


@dataclass(frozen=True)
class Machinery:
    """Of one thread: its registers, how many of them are spilled to memory (on NVIDIA's GPUs the
    instructions that do it), and its stack's bytes; of one program: the bytes of shared memory.
    `loads` and `stores` count the instructions that access global memory, by their width in bits;
    `open_roundings` the additions and multiplications that NVIDIA's assembler may join into one;
    of NVIDIA's code `instructions` and the `special` ones of them count each once, and `loops` are
    in order."""

    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    loads: dict[int, int]
    stores: dict[int, int]
    open_roundings: int = 0
    instructions: int = 0
    special: int = 0
    loops: tuple[Loop, ...] = ()


def inspect(kernel: CompiledKernel) -> Machinery:
    """Read the machine code of a kernel for an NVIDIA or an AMD GPU."""
    if "cubin" in kernel.asm:
        machinery = _of_cubin(kernel.asm["cubin"])
        count = len(_PTX_OPEN.findall(kernel.asm["ptx"]))
        machinery = replace(machinery, open_roundings=count)
    else:
        machinery = _of_amdgcn(kernel.asm["amdgcn"])
    # What a launch asks for is not in the code.
    return replace(machinery, shared_bytes=max(machinery.shared_bytes, kernel.metadata.shared))


def _of_cubin(cubin: bytes) -> Machinery:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        use = _tool("cuobjdump", "--dump-resource-usage", str(path))
        code = _tool("nvdisasm", "--print-code", "--no-dataflow", str(path))
    found = _SASS_USE.search(use)
    if found is None:
        raise ValueError(f"cuobjdump: expected a kernel's resource usage, got {use[:80]!r}")
    registers, stack, shared, local = (int(value) for value in found.groups())
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    spills = 0
    for name, modifiers in _SASS_ACCESS.findall(code):
        if name in ("LDL", "STL"):
            spills += 1
            continue
        widths = [_SASS_BITS[part] for part in modifiers.split(".") if part in _SASS_BITS]
        counter = stores if name == "STG" else loads
        counter[max(widths, default=32)] += 1
    return Machinery(
        registers,
        spills,
        max(stack, local),
        shared,
        _by_width(loads),
        _by_width(stores),
        **_executed(code),
    )


def _executed(code: str) -> dict[str, Any]:
    """What is counted of the code that is executed; a loop lies between a label and a branch back
    to it."""
    names: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in code.splitlines():
        if label := _SASS_LABEL.match(line.strip()):
            labels[label.group(1)] = len(names)
        elif found := _SASS_LINE.match(line):
            name, rest = found.groups()
            names.append(name)
            target = _SASS_TARGET.search(rest) if name.startswith("BRA") else None
            if target and labels.get(target.group(), len(names)) < len(names) - 1:
                body = names[labels[target.group()] :]
                waits = sum(one.startswith("BAR") for one in body)
                loops.append(Loop(len(body), _special(body), waits))
    instructions = len(names) - names.count("NOP")
    return {"instructions": instructions, "special": _special(names), "loops": tuple(loops)}


def _special(names: list[str]) -> int:
    return sum(name.startswith("MUFU") for name in names)


def _of_amdgcn(code: str) -> Machinery:
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for direction, form in _GCN_ACCESS.findall(code):
        size = form.removeprefix("lds_").removesuffix("_hi").removesuffix("_d16")
        width = _GCN_BITS[size]
        (stores if direction == "store" else loads)[width] += 1

    def value(name: str) -> int:
        found = re.search(rf"^\s*\.{name}:\s*(\d+)", code, re.MULTILINE)
        if found is None:
            raise ValueError(f"amdgcn: expected .{name}, found none")
        return int(found.group(1))

    # Scalar registers that are spilled move to the lanes of a vector register, not to memory.
    return Machinery(
        value("vgpr_count"),
        value("vgpr_spill_count"),
        value("private_segment_fixed_size"),
        value("group_segment_fixed_size"),
        _by_width(loads),
        _by_width(stores),
    )


def _by_width(counter: Counter[int]) -> dict[int, int]:
    return dict(sorted(counter.items(), reverse=True))


def _tool(name: str, *arguments: str) -> str:
    command = [str(_TOOLS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
