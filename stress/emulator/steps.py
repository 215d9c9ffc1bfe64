"""Which step is whose."""

from __future__ import annotations

from stress.emulator import accesses, arithmetic, warps
from stress.emulator.machine import Machine, Step
from stress.emulator.parse import Instruction, PtxError

_STEPS = {
    **dict.fromkeys(("add", "sub", "fma", "max", "min", "abs", "neg"), arithmetic.simple),
    **dict.fromkeys(("not", "and", "or", "xor", "popc", "cvta"), arithmetic.simple),
    **dict.fromkeys(("mul", "mad"), arithmetic.multiply),
    **dict.fromkeys(("ex2", "lg2", "rcp", "sqrt", "rsqrt"), arithmetic.approximate),
    "div": arithmetic.approximate,
    "rem": arithmetic.divide,
    "mov": arithmetic.move,
    **dict.fromkeys(("shl", "shr"), arithmetic.shift),
    "bfe": arithmetic.extract_bits,
    "prmt": arithmetic.permute_bytes,
    "selp": arithmetic.select,
    "setp": arithmetic.compare,
    "cvt": arithmetic.convert,
    "ld": accesses.load,
    "st": accesses.store,
    "cp": accesses.copy,
    "shfl": warps.shuffle,
    "redux": warps.reduce,
    **dict.fromkeys(("ldmatrix", "stmatrix"), warps.matrices),
    "mma": warps.multiply,
    "wgmma": warps.multiply_by_four_warps,
}
#: Ways to round and to saturate that Triton has not asked for.
_REFUSED = {"rz", "rm", "rp", "sat", "satfinite", "relu", "xorsign"}

#: Order memory, in which steps here are done at once; barriers of warps, which run in lockstep.
_NOTHING = ("fence", "membar", "bar")


def step_of(machine: Machine, instruction: Instruction) -> Step | None:
    """What an instruction does; None if that is nothing here."""
    if instruction.name in _NOTHING:
        return None
    if instruction.name not in _STEPS or _REFUSED.intersection(instruction.modifiers):
        raise PtxError(f"{machine.program.name}: not emulated: {instruction.text}")
    return _STEPS[instruction.name](machine, instruction)
