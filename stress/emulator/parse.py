"""PTX's text as instructions in blocks: threads are together at a block's first and stay so."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\$?\w+):$")
_GUARD = re.compile(r"^@(!?)(%\w+)\s+")
#: What a warp's threads do together.
OF_WARPS = ("shfl", "redux", "mma", "wgmma", "ldmatrix", "stmatrix")


class PtxError(AssertionError):
    """A kernel does what it must not, or what is not emulated."""


@dataclass(frozen=True)
class Instruction:
    """`@guard name.modifiers.kind operands;`"""

    text: str
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool

    @property
    def kind(self) -> str:
        """The type of its numbers."""
        return self.modifiers[-1] if self.modifiers else ""

    @property
    def is_barrier(self) -> bool:
        return self.name == "bar" and self.modifiers[0] == "sync"

    @property
    def ends_block(self) -> bool:
        """Whether it says where threads go on."""
        return self.name in ("bra", "ret") or self.is_barrier

    @property
    def is_of_warps(self) -> bool:
        return self.name in OF_WARPS and self.modifiers[0] not in ("fence", "commit_group")


@dataclass(frozen=True)
class Program:
    """A kernel. `parameters` are names, `registers` types by name, `labels` blocks' numbers."""

    name: str
    parameters: tuple[str, ...]
    registers: dict[str, str]
    blocks: tuple[tuple[Instruction, ...], ...]
    labels: dict[str, int]


def parse(ptx: str) -> Program:
    """The one kernel of a text that Triton wrote."""
    head, body = ptx[ptx.index(".visible .entry") :].split("\n{\n", 1)
    found = re.search(r"\.entry (\S+?)\(", head)
    if found is None:
        raise PtxError("expected a kernel, found none")
    parameters = re.findall(r"^\s*\.param \.\w+.*?(\w+),?$", head, re.MULTILINE)
    registers: dict[str, str] = {}
    labels: dict[str, int] = {}
    blocks: list[list[Instruction]] = [[]]
    for statement in _statements(body[: body.index("\n}\n")]):
        label = _LABEL.match(statement)
        if statement.startswith(".reg"):
            registers |= _declared(statement)
        elif label is not None:
            if blocks[-1]:
                blocks.append([])
            labels[label.group(1)] = len(blocks) - 1
        elif not statement.startswith(".pragma"):
            _append(blocks, _instruction(statement))
    return Program(found.group(1), tuple(parameters), registers, tuple(map(tuple, blocks)), labels)


def _append(blocks: list[list[Instruction]], instruction: Instruction) -> None:
    if instruction.is_of_warps and blocks[-1] and not blocks[-1][0].is_of_warps:
        blocks.append([])
    blocks[-1].append(instruction)
    if instruction.ends_block:
        blocks.append([])


def _statements(text: str) -> list[str]:
    """Without comments, directives on lines and the braces of scopes."""
    found, current = [], ""
    for line in text.splitlines():
        code = line.split("//")[0].strip()
        if code.startswith((".loc", ".file")):
            continue
        if _LABEL.match(code):
            found.append(code)
            continue
        for character in code:
            if character == ";":
                found.append(current.strip())
                current = ""
            elif character not in "{}" or current.strip():
                current += character
        current += " "
    return [statement for statement in found if statement]


def _declared(statement: str) -> dict[str, str]:
    kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)$", statement).groups()
    declared = {}
    for name in names.split(","):
        counted = re.match(r"(%\w+)<(\d+)>", name.strip())
        if counted is None:
            declared[name.strip()] = kind
        else:
            stem, count = counted.groups()
            declared |= {f"{stem}{index}": kind for index in range(int(count))}
    return declared


def _instruction(text: str) -> Instruction:
    guarded = _GUARD.match(text)
    opcode, _, operands = text[guarded.end() if guarded else 0 :].replace("\t", " ").partition(" ")
    name, *modifiers = opcode.replace("::", ".").split(".")
    return Instruction(
        text,
        name,
        tuple(modifiers),
        tuple(split(operands)),
        guarded.group(2) if guarded else None,
        bool(guarded and guarded.group(1)),
    )


def split(text: str) -> list[str]:
    """At the commas outside of braces and brackets."""
    parts = re.split(r",(?![^{]*\})(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def names_in(operand: str) -> list[str]:
    """The registers of `{a, b}`, or of `a`."""
    return [name.strip() for name in operand.strip("{} ").split(",")]
