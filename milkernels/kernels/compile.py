"""Compile a launch for a GPU that is not here, as running it there would."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.compiler import compile as triton_compile
from triton.runtime.jit import JITFunction

from milkernels.kernels.launch import Launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
}

#: Triton compiles for integers and addresses that this divides.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Specialisation:
    """What a kernel is compiled for: types of its arguments, constants and what divides them. Two
    launches of a kernel whose specialisations are equal share what it is compiled to."""

    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]

    @staticmethod
    def of(launch: Launch) -> Specialisation:
        """Tensors may be on the meta device, where addresses count as aligned."""
        result = Specialisation({}, {}, {})
        for parameter in _compiled(launch).params:
            value, path = launch.arguments[parameter.name], (parameter.num,)
            if parameter.is_constexpr:
                kind = "constexpr"
                result.constants[path] = value
            elif parameter.do_not_specialize:
                kind = _integer(value)
            else:
                kind = result._note(value, path)
            result.signature[parameter.name] = kind
        return result

    def _note(self, value: Any, path: tuple[int, ...]) -> Any:
        """Type of an argument; notes what Triton would specialise on."""
        if isinstance(value, tuple):
            return tuple(self._note(item, (*path, index)) for index, item in enumerate(value))
        if isinstance(value, float):
            return "fp32"
        if isinstance(value, Tensor):
            if value.is_meta or value.data_ptr() % _ALIGNMENT == 0:
                self.attributes[path] = [["tt.divisibility", _ALIGNMENT]]
            return _POINTERS[value.dtype]
        if value == 1:
            self.constants[path] = value
            return "constexpr"
        if value % _ALIGNMENT == 0:
            self.attributes[path] = [["tt.divisibility", _ALIGNMENT]]
        return _integer(value)


def compile_launch(launch: Launch, target: str) -> CompiledKernel:
    """The kernel of `launch`, specialised for its arguments, for one of `TARGETS`."""
    launch = launch.on(TARGETS[target])
    return _compile(ASTSource(*_source(launch)), launch, target)


def lower_launch(launch: Launch, target: str) -> None:
    """Take the kernel of `launch` through the compiler's front end alone, which finds what is no
    Triton in a second; raises the compiler's error."""
    launch = launch.on(TARGETS[target])
    with suppress(_Lowered):
        _compile(_FrontEnd(*_source(launch)), launch, target)


class _Lowered(Exception):  # noqa: N818 - it is none
    """The front end is through."""


class _FrontEnd(ASTSource):
    def make_ir(self, *arguments: Any, **keywords: Any) -> Any:
        super().make_ir(*arguments, **keywords)
        raise _Lowered


def _compile(source: ASTSource, launch: Launch, target: str) -> CompiledKernel:
    gpu = TARGETS[target]
    return triton_compile(source, target=gpu, options=launch.options(gpu))


def _source(launch: Launch) -> tuple[Any, ...]:
    found = Specialisation.of(launch)
    return _compiled(launch), found.signature, found.constants, found.attributes


def _compiled(launch: Launch) -> JITFunction:
    """The kernel as it is compiled, where Triton interprets it too."""
    kernel = launch.kernel
    return kernel if isinstance(kernel, JITFunction) else JITFunction(kernel.fn, **kernel.kwargs)


def _integer(value: int) -> str:
    return "i32" if -(2**31) <= value < 2**31 else "i64"
