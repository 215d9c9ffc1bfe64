"""Threads of some programs in lockstep, each with registers and a place of its own.

Of all threads that can go on those at the lowest place do, together. Threads that parted meet
again where the text joins; what a warp does together waits for its threads, and a barrier for its
program's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stress.emulator.memory import GlobalMemory, SharedMemory
from stress.emulator.parse import Instruction, Program, PtxError
from stress.emulator.values import BITS, TYPES, Approximations, Array, bytes_of, literal

#: Runs an instruction for the threads of a mask, or for all.
Step = Callable[["Array | None"], None]

WARP = 32
_WARP_GROUP = 4 * WARP
_DONE = 1 << 30


class Machine:
    """Threads that can run a kernel.

    Args:
        program: the kernel.
        threads: of each of its programs.
        programs: how many run at a time.
        compile_step: what an instruction does.
        approximations: of those that round as they like.
    """

    def __init__(
        self,
        program: Program,
        threads: int,
        programs: int,
        compile_step: Callable[[Machine, Instruction], Step | None],
        approximations: Approximations,
    ) -> None:
        self.program = program
        self.count = threads * programs
        self.approximations = approximations
        self.shared = SharedMemory(programs)
        self.memory = GlobalMemory([])
        self.parameters: dict[str, int] = {}
        self._programs = programs
        thread = np.arange(self.count)
        self.program_of_thread = thread // threads
        zero = np.zeros(self.count, np.uint32)
        self._registers = {name: self._register(kind) for name, kind in program.registers.items()}
        self._registers |= {
            "%tid.x": (thread % threads).astype(np.uint32),
            "%laneid": (thread % WARP).astype(np.uint32),
            "%ctaid.x": zero.copy(),
            "%nctaid.x": zero.copy(),
            **{f"%{name}.{axis}": zero for name in ("tid", "ctaid") for axis in "yz"},
            "global_smem": zero,
            # What is written there nobody reads.
            "_": zero.copy(),
        }
        self._blocks = [self._compiled(block, compile_step) for block in program.blocks]

    def run(self, grid: int, arguments: list[int], memory: GlobalMemory, shared: int) -> None:
        """A launch of `grid` programs, each with `shared` bytes of shared memory."""
        self.parameters = dict(zip(self.program.parameters, arguments, strict=True))
        self.memory = memory
        self._registers["%nctaid.x"][...] = grid
        with np.errstate(all="ignore"):
            for first in range(0, grid, self._programs):
                self.shared.clear(shared)
                self._registers["%ctaid.x"][...] = first + self.program_of_thread
                self._run(self.program_of_thread < grid - first)

    def source(self, operand: str, kind: str) -> Array:
        """An operand's numbers: a register's as they are when it is read, or a constant."""
        if operand not in self._registers:
            return literal(operand, kind)
        register = self._registers[operand]
        if register.dtype == np.bool_:
            return register
        size = bytes_of(kind)
        if register.dtype.itemsize == size:
            return register.view(TYPES.get(kind, BITS[size]))
        # The lower part of a wider register, in little-endian memory the first of its parts.
        return register.view(TYPES.get(kind, BITS[size]))[:: register.dtype.itemsize // size]

    def register(self, name: str) -> Array:
        """The bits of a register, to be written."""
        return self._registers[name]

    def every(self, operand: Array) -> Array:
        """One number for each thread."""
        return np.broadcast_to(np.asarray(operand), (self.count,))

    def _register(self, kind: str) -> Array:
        if kind == "pred":
            return np.ones(self.count, np.bool_)
        bits = BITS[bytes_of(kind)]
        return np.full(self.count, 0x5A5A5A5A5A5A5A5A & np.iinfo(bits).max, bits)

    def _compiled(
        self,
        block: tuple[Instruction, ...],
        compile_step: Callable[[Machine, Instruction], Step | None],
    ) -> tuple[list[tuple[Step, Instruction]], Instruction | None]:
        """A block's steps, and the instruction that says where its threads go."""
        last = block[-1] if block and block[-1].ends_block else None
        steps = []
        for instruction in block[: len(block) - (last is not None)]:
            step = compile_step(self, instruction)
            if step is not None:
                steps.append((self._guarded(step, instruction), instruction))
        return steps, last

    def _guard(self, instruction: Instruction) -> Array | None:
        if instruction.guard is None:
            return None
        guard = self._registers[instruction.guard]
        return ~guard if instruction.negated else guard

    def _guarded(self, step: Step, instruction: Instruction) -> Step:
        if instruction.guard is None:
            return step

        def run(mask: Array | None) -> None:
            guard = self._guard(instruction)
            chosen = guard if mask is None else guard & mask
            if chosen.all():
                step(None)
            elif chosen.any():
                step(chosen)

        return run

    def _run(self, alive: Array) -> None:
        place = np.where(alive, 0, _DONE).astype(np.int32)
        waiting = np.zeros(self.count, np.bool_)
        while True:
            current, mask = self._next(place, waiting)
            if current == _DONE:
                return
            steps, last = self._blocks[current]
            for step, instruction in steps:
                try:
                    step(mask)
                except PtxError as error:
                    raise PtxError(f"{self.program.name}: {instruction.text}: {error}") from None
            onward = self._onward(current, last)
            if mask is None:
                place[...] = onward
            else:
                np.copyto(place, onward, where=mask)
            if last is not None and last.is_barrier:
                waiting |= True if mask is None else mask
            if waiting.any():
                self._release(place, waiting)

    def _next(self, place: Array, waiting: Array) -> tuple[int, Array | None]:
        """The block to run and its threads, None for all."""
        can_run = np.where(waiting, _DONE, place)
        current = int(can_run.min())
        if current == _DONE and waiting.any():
            raise PtxError(f"{self.program.name}: threads wait at a barrier for others that do not")
        mask = can_run == current
        while current != _DONE and self.program.blocks[current] and not mask.all():
            first = self.program.blocks[current][0]
            if not first.is_of_warps:
                break
            width = _WARP_GROUP if first.name == "wgmma" else WARP
            mask = np.repeat(mask.reshape(-1, width).all(1), width)
            if mask.any():
                break
            later = can_run[(can_run > current) & (can_run < _DONE)]
            if not later.size:
                raise PtxError(f"{self.program.name}: {first.text}: a warp never meets")
            current = int(later.min())
            mask = can_run == current
        return current, None if mask.all() else mask

    def _onward(self, current: int, last: Instruction | None) -> Array | int:
        """Where a block's threads go."""
        if last is None or last.is_barrier:
            return current + 1
        goes = _DONE if last.name == "ret" else self.program.labels[last.operands[0]]
        guard = self._guard(last)
        return goes if guard is None else np.where(guard, goes, current + 1)

    def _release(self, place: Array, waiting: Array) -> None:
        """Let programs go on all of whose threads wait, or are done."""
        waits = waiting.reshape(self._programs, -1)
        done = (place == _DONE).reshape(self._programs, -1)
        for ready in np.flatnonzero((waits | done).all(1) & waits.any(1)):
            places = place.reshape(self._programs, -1)[ready][waits[ready]]
            if (places != places[0]).any():
                raise PtxError(f"{self.program.name}: threads wait at different barriers")
            waits[ready] = False
