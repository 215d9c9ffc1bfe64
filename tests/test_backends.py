"""Which backend serves, and what happens where one is missing."""

import os
import subprocess
import sys

import pytest
import torch

import milkernels
from milkernels import functional
from milkernels.kernels.cpp import extension

BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            if {hide}:
                raise ModuleNotFoundError(f"no {{name}} here", name=name)
        return None
sys.meta_path.insert(0, Refuse())
"""

POOL = """
import torch, milkernels
x = torch.rand(2, 3, 50, requires_grad=True)
milkernels.functional.power_pool(x, torch.ones(3)).sum().backward()
assert x.grad.isfinite().all()
print(milkernels.build_info()["serves"]["cpu"]["backend"])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_automatic_choice_is_cpp_on_the_cpu():
    info = milkernels.build_info()
    assert info["chosen"] == "auto"
    assert info["serves"]["cpu"]["backend"] == "cpp"
    assert info["cpp"]["instruction_set"] in info["cpp"]["usable_instruction_sets"]


def test_the_choice_lasts_for_the_block_and_bare_for_good():
    with milkernels.backend("reference"):
        assert milkernels.build_info()["chosen"] == "reference"
        with milkernels.backend("cpp"):
            assert milkernels.build_info()["chosen"] == "cpp"
        assert milkernels.build_info()["chosen"] == "reference"
    assert milkernels.build_info()["chosen"] == "auto"
    milkernels.backend("cpp")
    assert milkernels.build_info()["chosen"] == "cpp"
    milkernels.backend("auto")


@pytest.mark.parametrize("chosen", ["auto", "triton", "reference"])
@pytest.mark.parametrize(
    ("built", "why"),
    [(False, "this PyTorch is built without CUDA and ROCm"), (True, "PyTorch finds no GPU")],
    ids=["a build for CPUs", "no GPU"],
)
def test_nothing_is_said_to_serve_a_gpu_that_is_not_there(monkeypatch, built, why, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    with milkernels.backend(chosen):
        assert milkernels.build_info()["serves"]["cuda"] == {"backend": None, "why": why}


@pytest.mark.parametrize(
    ("chosen", "backend"),
    [("auto", "triton"), ("triton", "triton"), ("reference", "reference"), ("cpp", None)],
)
def test_what_serves_a_gpu_is_said_where_there_is_one(monkeypatch, chosen, backend):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with milkernels.backend(chosen):
        assert milkernels.build_info()["serves"]["cuda"]["backend"] == backend


def test_a_backward_pass_runs_where_its_forward_pass_ran():
    x = torch.rand(2, 3, 50, requires_grad=True)
    with milkernels.backend("cpp"):
        y = functional.power_pool(x, torch.ones(3, requires_grad=True))
    with milkernels.backend("triton"):
        y.sum().backward()
    assert x.grad.isfinite().all()


def test_without_triton_the_others_serve_and_it_is_said_once():
    code = BLOCKED.format(names=["triton"], hide=True) + POOL
    result = run(code.replace("import torch, milkernels", "import torch, milkernels, milkernels"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["cpp"]
    assert result.stderr.count("Triton is not installed") == 1


def test_without_the_extension_the_reference_serves_and_it_is_said_once():
    result = run(BLOCKED.format(names=["milkernels._C"], hide=True) + POOL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference"]
    assert result.stderr.count("CPU tensors are served by the PyTorch reference") == 1


def test_triton_is_not_imported_until_it_is_needed():
    result = run(POOL + "import sys; assert 'triton' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_triton_refuses_cpu_tensors_outside_the_interpreter():
    code = (
        "import torch, milkernels; milkernels.backend('triton')\n"
        "milkernels.functional.mean_pool(torch.rand(1, 2, 3))"
    )
    result = run(code, TRITON_INTERPRET="0")
    assert "Triton needs a GPU tensor, or a CPU tensor under TRITON_INTERPRET=1" in result.stderr


@pytest.mark.parametrize("name", extension.describe().get("usable_instruction_sets", []))
def test_every_usable_instruction_set_gives_the_same_numbers(name, tmp_path):
    code = """
import sys, torch, milkernels
from milkernels import functional as F
info = milkernels.build_info()["cpp"]
assert info["instruction_set"] == sys.argv[1] if len(sys.argv) > 1 else True
torch.manual_seed(0)
results = []
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    for dim in (1, 2):
        x = torch.randn(3, 37, 41).to(dtype).requires_grad_()
        n = torch.rand(x.shape[3 - dim]).requires_grad_()
        for y in (F.power_exp_pool(x, n, 2 * n, dim=dim, from_logits=True), F.max_pool(x, dim=dim),
                  F.linear_softmax_pool(x.sigmoid(), dim=dim), F.attention_pool(x, -x, "tanh")):
            results += [y.detach(), *torch.autograd.grad(y.sum(), x, retain_graph=True)]
torch.save([r.double() for r in results], PATH)
"""
    outputs = []
    for instruction_set in (name, "portable"):
        path = tmp_path / f"{instruction_set}.pt"
        result = run(
            code.replace("PATH", repr(str(path))), MILKERNELS_INSTRUCTION_SET=instruction_set
        )
        assert result.returncode == 0, result.stderr
        outputs.append(torch.load(path))
    for index, (one, other) in enumerate(zip(*outputs, strict=True)):
        # Sixteen results for each dtype; half-precision ones may round apart by one unit.
        tolerance = (1e-13, 2e-6, 8e-3, 1e-3)[index // 16]
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_an_unknown_instruction_set_is_refused():
    result = run(POOL, MILKERNELS_INSTRUCTION_SET="mmx")
    assert result.returncode != 0
    assert "MILKERNELS_INSTRUCTION_SET: expected one of" in result.stderr.splitlines()[-1]
    assert "got mmx" in result.stderr.splitlines()[-1]
