"""Where and with what a row was measured."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path

import torch

import milkernels

#: What a CPU's generation is told by, and its name in /proc/cpuinfo.
_GENERATION = {"family": "cpu family", "model": "model"}


def describe(device: torch.device) -> dict[str, str]:
    """The columns of a row that tell one machine and build from another."""
    on_gpu = device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if on_gpu else _cpu_model(),
        "device": device.type,
        "instruction_set": _gpu_architecture(device) if on_gpu else _instruction_set(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    """With family and model: clouds give all generations one name."""
    information = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    if information.is_file():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    if "model name" not in found:
        return platform.processor() or platform.machine()
    numbers = [f"{name} {found[key]}" for name, key in _GENERATION.items() if key in found]
    return found["model name"] + (f" ({', '.join(numbers)})" if numbers else "")


def _instruction_set() -> str:
    return str(milkernels.build_info()["cpp"].get("instruction_set", ""))


def _gpu_architecture(device: torch.device) -> str:
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _version(package: str) -> str:
    installed = importlib.util.find_spec(package) is not None
    return importlib.metadata.version(package) if installed else ""


def _commit() -> str:
    """The commit, with a + where the package differs from it; empty outside a repository."""
    root = Path(__file__).parents[1]
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", "milkernels", "csrc", "benchmarks/*.py")
    return commit + "+" * bool(changed)


def _git(root: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()
