"""Compile a launch for a GPU that is not here, as running it there would."""

from __future__ import annotations

import inspect
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


def compile_launch(launch: Launch, target: str) -> CompiledKernel:
    """The kernel of `launch`, specialised for its arguments, for one of `TARGETS`.

    The arguments' tensors may be on the meta device: addresses count as aligned.
    """
    kernel = launch.kernel
    if not isinstance(kernel, JITFunction):
        kernel = JITFunction(kernel.fn)
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for position, parameter in enumerate(inspect.signature(kernel.fn).parameters.values()):
        value = launch.arguments[parameter.name]
        if "constexpr" in str(parameter.annotation):
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
        else:
            signature[parameter.name] = _specialise(value, (position,), constants, attributes)
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps}
    return triton_compile(source, target=TARGETS[target], options=options)


def _specialise(
    value: Any,
    path: tuple[int, ...],
    constants: dict[tuple[int, ...], Any],
    attributes: dict[tuple[int, ...], Any],
) -> Any:
    """Type of an argument; notes what Triton would specialise on."""
    if isinstance(value, tuple):
        return tuple(
            _specialise(item, (*path, index), constants, attributes)
            for index, item in enumerate(value)
        )
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, Tensor):
        attributes[path] = [["tt.divisibility", _ALIGNMENT]]
        return _POINTERS[value.dtype]
    if value == 1:
        constants[path] = value
        return "constexpr"
    if value % _ALIGNMENT == 0:
        attributes[path] = [["tt.divisibility", _ALIGNMENT]]
    return "i32" if -(2**31) <= value < 2**31 else "i64"
