"""The frame-level poolings, and their losses in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import torch.nn.functional as torch_functional
from torch import Tensor

from benchmarks import eager
from benchmarks.cases import KINDS, LAYOUTS, Case, Draw, Inputs, Operation, Pooling
from milkernels import functional, reference


@dataclass(frozen=True)
class FrameLevel(Operation):
    """A pooling: `name` is its function in `benchmarks.eager`, and with `_pool` in `milkernels` if
    no other `function` is given, called with the `keywords`; `mean_logit` is its frames'."""

    name: str
    parameters: tuple[str, ...] = ()
    scores: bool = False
    function: str | None = None
    keywords: Mapping[str, object] = field(default_factory=dict, hash=False)
    mean_logit: float = -1.0

    @property
    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("x", *(("scores",) if self.scores else ()), *self.parameters)

    def inputs(self, case: Case, draw: Draw) -> Inputs:
        shape = case.shape
        scores = (draw.normal(*case.extent),) if self.scores else ()
        parameters = (draw.uniform(shape.classes, low=0.5, high=2.5) for _ in self.parameters)
        return Inputs(
            (draw.frame_values(case, self.mean_logit), *scores),
            tuple(parameters),
            draw.normal(shape.batch, shape.classes),
        )

    def kernel(self, case: Case) -> Pooling:
        return self._of(functional, case)

    def oracle(self, case: Case) -> Pooling:
        return self._of(reference, case)

    def _of(self, module: ModuleType, case: Case) -> Pooling:
        function = getattr(module, self.function or f"{self.name}_pool")
        return partial(function, dim=case.dim, from_logits=case.from_logits, **self.keywords)

    def eager(self, case: Case) -> Pooling:
        """Logits go through a sigmoid first."""
        function = partial(getattr(eager, self.name), dim=case.dim)
        if not case.from_logits:
            return function
        return lambda x, *rest: function(x.sigmoid(), *rest)


@dataclass(frozen=True)
class Loss(Operation):
    """A pooling with binary cross-entropy: in one pass, or one after the other."""

    pooling: FrameLevel

    shapes = ("audioset", "in_cache")
    layouts = tuple(LAYOUTS)
    kinds = KINDS

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"bce_{self.pooling.name}"

    @property
    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.pooling.arguments

    def inputs(self, case: Case, draw: Draw) -> Inputs:
        inputs = self.pooling.inputs(case, draw)
        labels = (inputs.gradient > 1).float()
        return Inputs(inputs.frames, inputs.parameters, labels.new_ones(()), (labels,))

    def kernel(self, case: Case) -> Pooling:
        return self._in_one(functional, case)

    def oracle(self, case: Case) -> Pooling:
        return self._in_one(reference, case)

    def eager(self, case: Case) -> Pooling:
        return self._after(self.pooling.eager(case))

    def others(self, case: Case) -> Mapping[str, Pooling]:
        return {"two steps": self._after(self.pooling.kernel(case))}

    def _in_one(self, module: ModuleType, case: Case) -> Pooling:
        pooling = self.pooling
        name = (pooling.function or pooling.name).removesuffix("_pool")
        keywords = {"dim": case.dim, "from_logits": case.from_logits, **pooling.keywords}

        def loss(x: Tensor, *rest: Tensor) -> Tensor:
            *parameters, labels = rest
            return module.pool_bce(name, x, labels, *parameters, **keywords)

        return loss

    @staticmethod
    def _after(pool: Pooling) -> Pooling:
        def loss(*arguments: Tensor) -> Tensor:
            *inputs, labels = arguments
            y = pool(*inputs).float().clamp(0, 1)
            return torch_functional.binary_cross_entropy(y, labels.to(y.dtype))

        return loss


#: One line registers a pooling.
POOLINGS = (
    FrameLevel("mean"),
    FrameLevel("max"),
    FrameLevel("max_mean"),
    FrameLevel("linear_softmax"),
    FrameLevel("exp_softmax"),
    FrameLevel("auto", parameters=("alpha",)),
    FrameLevel("power", parameters=("power",)),
    FrameLevel("power_exp", parameters=("power", "alpha")),
    FrameLevel("attention", scores=True),
    # Of likelier frames every bag is 1, and shows no error.
    FrameLevel("noisy_or", mean_logit=-6.0),
    FrameLevel("log_mean_exp", parameters=("sharpness",)),
    FrameLevel(
        "class_attention",
        scores=True,
        function="attention_pool",
        keywords={"normalize": "classes"},
    ),
    FrameLevel("rank", keywords={"decay": eager.DECAY}),
)
LOSSES = tuple(
    Loss(pooling)
    for pooling in POOLINGS
    # Their values are no probabilities, or their eager forms lack a gradient that is finite.
    if pooling.name not in ("max_mean",)
)
