"""Training steps: the published systems, and heads on embeddings that are there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.plain import PlainFunctions
from milkernels.nn import AttentionPool, AttentionStatsPool
from models.data.classes import ClassList
from models.detector import Detector, DetectorSpec
from models.features import FrontEnd
from models.layers.frame_head import FrameHead
from models.layers.reference_pooling import use_reference_pooling
from models.losses import clip_loss
from models.output import DetectorOutput

KERNELS = "milkernels"
PLAIN = "eager"
REFERENCE = "reference"
IN_ONE_PASS = "pool_bce"

IMPLEMENTATIONS = (KERNELS, PLAIN, REFERENCE)
"""Ours; PyTorch as people write it; PyTorch with every guard that ours has, which
`build_model(..., reference_pooling=True)` gives."""

_PLAIN = PlainFunctions()


@dataclass(frozen=True)
class SystemCase:
    """A published system at its paper's widths, and the clips of a step on a CPU and on a GPU."""

    name: str
    model: str
    classes: int
    cpu_batch: int
    cuda_batch: int
    pooling: str | None = None
    options: dict[str, object] = field(default_factory=dict)

    def batch(self, device: torch.device) -> int:
        """Clips of a step."""
        return self.cuda_batch if device.type == "cuda" else self.cpu_batch


@dataclass(frozen=True)
class HeadCase:
    """A head on embeddings (batch, frames, width)."""

    name: str
    pooling: str
    batch: int
    frames: int
    width: int
    classes: int


SYSTEMS = (
    SystemCase("dcase2017_crnn", "dcase2017_crnn", 17, 8, 100),
    SystemCase("talnet", "talnet", 527, 2, 100),
    SystemCase("power_crnn", "power_crnn", 17, 8, 100),
    SystemCase("gmap_cnn", "gmap_cnn", 527, 2, 64),
    SystemCase("two_step_autoencoder", "two_step_autoencoder", 41, 1, 24),
    SystemCase("atrous_cnn", "atrous_cnn", 41, 1, 24),
    SystemCase("atrous_cnn, rank", "atrous_cnn", 41, 1, 24, "rank"),
    SystemCase("gated_crnn", "gated_crnn", 17, 2, 44),
)
"""Batches of a CPU are as small as its patience, those of a GPU the papers' where they fit."""

_AUDIOSET = partial(HeadCase, batch=500, frames=10, width=128, classes=527)
_SLIDE = partial(HeadCase, batch=1, frames=10_000, width=512, classes=2)

HEADS = (
    *(
        _AUDIOSET(f"AudioSet's embeddings, {pooling.replace('_', ' ')}", pooling)
        for pooling in ("mean", "max", "linear_softmax", "exp_softmax", "power", "attention")
    ),
    *(
        _SLIDE(f"slide, {pooling.replace('_', ' ')}", pooling)
        for pooling in ("max", "linear_softmax", "attention", "attention_stats")
    ),
)


class StatsHead(nn.Module):
    """Four heads of attention statistics and a linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.pool = AttentionStatsPool(width, heads=4, frame_dim=1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, hidden: Tensor, padding: None) -> DetectorOutput:
        """Probabilities from (batch, frames, width)."""
        return DetectorOutput(self.classifier(self.pool(hidden)).sigmoid(), None)


def build_detector(case: SystemCase, device: torch.device) -> Detector:
    """A system with its front end, of the same parameters each time."""
    torch.manual_seed(0)
    names = tuple(f"/c/{index}" for index in range(case.classes))
    spec = DetectorSpec(case.model, case.pooling, None, case.options)
    return Detector(spec, ClassList(names, names)).to(device).train()


def build_head(case: HeadCase, device: torch.device) -> nn.Module:
    """A head, of the same parameters each time."""
    torch.manual_seed(0)
    if case.pooling == "attention_stats":
        return StatsHead(case.width, case.classes).to(device)
    return FrameHead(case.width, case.classes, case.pooling).to(device)


def choose(network: nn.Module, implementation: str) -> nn.Module:
    """The network with the poolings of an implementation, changed in place."""
    if implementation == PLAIN:
        use_reference_pooling(network, _PLAIN)
    elif implementation == REFERENCE:
        use_reference_pooling(network)
    return network


@dataclass
class Step:
    """A training step: forward, loss, backward, Adam. `network` takes `inputs`."""

    network: nn.Module
    inputs: tuple[object, ...]
    target: Tensor
    loss: Callable[[Step], Tensor]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)

    def __call__(self) -> None:
        self.loss(self).backward()
        self.update()

    def update(self) -> None:
        """The optimiser's part."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def two_passes(step: Step) -> Tensor:
    """Pooling, then cross-entropy."""
    output = step.network(*step.inputs)
    return clip_loss(output.clip, step.target) + output.penalty


def one_pass(step: Step) -> Tensor:
    """The loss of a `FrameHead`'s logits."""
    head: Any = step.network
    hidden, _ = step.inputs
    features = [hidden] if isinstance(head.pool, AttentionPool) else []
    loss = head.pool.bce(head.classifier(hidden), *features, step.target)
    return cast(Tensor, loss) + head.pool.penalty()


def features_of(front_end: FrontEnd, waveform: Tensor) -> Tensor:
    """What a network hears of waveforms (batch, samples)."""
    with torch.no_grad():
        lengths = torch.full((len(waveform),), waveform.shape[1])
        return front_end(waveform, lengths)[0]


def pooling_call(network: Any, inputs: tuple[object, ...]) -> Callable[[], object]:
    """The pooling alone, forward and backward, on what it gets from the network's inputs."""
    pool = network.pool
    name = "steps" if hasattr(pool, "steps") else "forward"
    method = getattr(pool, name)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(*arguments: object, **keywords: object) -> object:
        seen.append((arguments, keywords))
        return method(*arguments, **keywords)

    setattr(pool, name, note)
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        delattr(pool, name)
    arguments, keywords = seen[0]
    leaves = [
        value.detach().clone().requires_grad_() if _is_floating(value) else value
        for value in arguments
    ]
    wanted = [value for value in leaves if _is_floating(value)] + list(pool.parameters())

    def call() -> object:
        result = getattr(pool, name)(*leaves, **keywords)
        result = result[-1] if isinstance(result, tuple) else result
        return torch.autograd.grad(result.sum(), wanted)

    return call


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
