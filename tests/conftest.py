"""What every test shares: Triton's interpreter where there is no GPU, whose loads and stores are
checked, and poisoned memory."""

import os
import signal

import torch

if not torch.cuda.is_available():
    # Before Triton is imported: its decorators read this once.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from checked_accesses import checked_backend
from hypothesis import HealthCheck, settings

from milkernels.kernels import lanes

KERNEL_BACKENDS = ("cpp", "triton")

# A shell's background job ignores it, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same few examples in every run; `--hypothesis-profile=long` looks for new ones.
settings.register_profile(
    "short",
    max_examples=5,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", settings.get_profile("short"), max_examples=2000, derandomize=False, print_blob=True
)
settings.load_profile("short")


@pytest.fixture(autouse=True)
def fresh_state():
    """Torch as it is when imported, whatever a training run before has left on."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(params=("reference", *KERNEL_BACKENDS))
def any_backend(request):
    """Each backend in turn, the reference among them."""
    with checked_backend(request.param):
        yield request.param


@pytest.fixture(params=KERNEL_BACKENDS)
def kernel_backend(request):
    """Each backend of kernels, on memory that is NaN until they write it."""
    torch.use_deterministic_algorithms(True)
    with checked_backend(request.param):
        yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def short_segments(monkeypatch):
    """Small tiles and blocks, and few in a segment: Triton cuts and joins bags of some hundreds."""
    monkeypatch.setattr("milkernels.kernels.tiles.TILE_ELEMENTS", 128)
    monkeypatch.setattr("milkernels.kernels.lanes._THREADS", 16)
    monkeypatch.setattr("milkernels.kernels.tiles.SEGMENT_TILES", 1)
    choices = (lanes._of, lanes._holding)
    for chosen in choices:
        chosen.cache_clear()
    yield
    for chosen in choices:
        chosen.cache_clear()


@pytest.fixture
def device(request):
    """Where a backend's tensors live: Triton's on the GPU if there is one."""
    chosen = next(
        (
            request.getfixturevalue(name)
            for name in ("kernel_backend", "any_backend")
            if name in request.fixturenames
        ),
        "cpp",
    )
    return "cuda" if chosen == "triton" and torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_device(device):
    """What the test makes is where its backend's tensors live."""
    with torch.device(device):
        yield
