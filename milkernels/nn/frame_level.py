"""One module per pooling: its parameters, and a call of `milkernels.functional`.

Every frame-level module takes `(x, mask=None)` and is built with `dim` and `from_logits` as in
`milkernels.functional`; `AttentionPool` also takes the features that its scores come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milkernels import functional, validation


class FramePool(nn.Module):
    """Base of the frame-level poolings: frame values in, (batch, classes) bag values out."""

    gives_probabilities = True
    """Whether probabilities give a probability."""

    def __init__(self, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.from_logits = from_logits

    def penalty(self) -> Tensor | float:
        """What the pooling adds to the caller's loss: 0 unless it was built with a penalty."""
        return 0.0

    def extra_repr(self) -> str:
        return f"dim={self.dim}, from_logits={self.from_logits}"

    def _layout(self, mask: Tensor | None) -> dict[str, object]:
        return {"dim": self.dim, "mask": mask, "from_logits": self.from_logits}


class MeanPool(FramePool):
    """`functional.mean_pool`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.mean_pool(x, **self._layout(mask))


class MaxPool(FramePool):
    """`functional.max_pool`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.max_pool(x, **self._layout(mask))


class MaxMeanPool(FramePool):
    """`functional.max_mean_pool`, for embeddings (PANNs' pooling)."""

    gives_probabilities = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.max_mean_pool(x, **self._layout(mask))


class NoisyOrPool(FramePool):
    """`functional.noisy_or_pool`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.noisy_or_pool(x, **self._layout(mask))


class RankPool(FramePool):
    """`functional.rank_pool`: global weighted rank pooling.

    Args:
        decay: what a frame's weight is to that of the frame ranked before it, in [0, 1]. Half of
            the whole weight is on the first ln 0.5 / ln decay frames: 69 of them for 0.99.
    """

    def __init__(self, decay: float = 0.99, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__(dim, from_logits)
        validation.decay(decay)
        self.decay = decay

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.rank_pool(x, self.decay, **self._layout(mask))

    def extra_repr(self) -> str:
        return f"decay={self.decay}, {super().extra_repr()}"


class LogMeanExpPool(FramePool):
    """`functional.log_mean_exp_pool`, with a sharpness for all classes or a learned one for each.

    Args:
        num_classes: learn a sharpness for each of so many classes; None keeps one for all.
        init: the sharpness, at the start. 5 as in Pinheiro and Collobert, 2015.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        init: float = 5.0,
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        validation.sharpness(init, 1, torch.device("cpu"))
        self.sharpness: float | nn.Parameter = (
            init if num_classes is None else nn.Parameter(torch.full((num_classes,), float(init)))
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.log_mean_exp_pool(x, self.sharpness, **self._layout(mask))


class LinearSoftmaxPool(FramePool):
    """`functional.linear_softmax_pool`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.linear_softmax_pool(x, **self._layout(mask))


class ExpSoftmaxPool(FramePool):
    """`functional.exp_softmax_pool`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.exp_softmax_pool(x, **self._layout(mask))


class AutoPool(FramePool):
    """`functional.auto_pool` with a learned alpha per class.

    Args:
        num_classes: how many.
        init: alpha at the start.
        max_alpha: holds |alpha| at this (constrained auto-pool, CAP).
        penalty: λ of `penalty()`, λ Σ α_c² (regularised auto-pool, RAP).
    """

    def __init__(
        self,
        num_classes: int,
        init: float = 1.0,
        max_alpha: float | None = None,
        penalty: float = 0.0,
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        self.alpha = nn.Parameter(torch.full((num_classes,), float(init)))
        self.max_alpha = max_alpha
        self._penalty = penalty

    def constrained_alpha(self) -> Tensor:
        """Alpha within its bound, as the pooling uses it."""
        if self.max_alpha is None:
            return self.alpha
        return self.alpha.clamp(-self.max_alpha, self.max_alpha)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.auto_pool(x, self.constrained_alpha(), **self._layout(mask))

    def penalty(self) -> Tensor | float:
        return self._penalty * self.alpha.square().sum()


class PowerPool(FramePool):
    """`functional.power_pool` with a learned power n ≥ 0 per class, linear softmax at the start.

    Args:
        num_classes: how many.
        init: n at the start.
        penalty: λ of `penalty()`, λ Σ n_c².
    """

    def __init__(
        self,
        num_classes: int,
        init: float = 1.0,
        penalty: float = 1e-4,
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        if init < 0:
            raise ValueError(f"init: expected a power of at least 0, got {init}")
        self.power = nn.Parameter(torch.full((num_classes,), float(init)))
        self._penalty = penalty

    def constrained_power(self) -> Tensor:
        """n, at least 0, as the pooling uses it."""
        return _NonNegative.apply(self.power)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.power_pool(x, self.constrained_power(), **self._layout(mask))

    def penalty(self) -> Tensor | float:
        return self._penalty * self.constrained_power().square().sum()


class PowerExpPool(FramePool):
    """`functional.power_exp_pool` with a learned power β ≥ 0 and alpha per class.

    Starts at linear softmax (β = 1, α = 0).
    """

    def __init__(self, num_classes: int, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__(dim, from_logits)
        self.power = nn.Parameter(torch.ones(num_classes))
        self.alpha = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        power = _NonNegative.apply(self.power)
        return functional.power_exp_pool(x, power, self.alpha, **self._layout(mask))


class AttentionPool(FramePool):
    """`functional.attention_pool` with a linear layer that scores each frame for each class.

    Args:
        in_features: width of the features that the scores come from.
        num_classes: how many.
        score_activation: None, "sigmoid", "tanh" or "clamp".
        normalize: "frames", or "classes" as in the DESED baseline.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        score_activation: str | None = None,
        normalize: str = "frames",
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        validation.score_activation(score_activation)
        validation.score_axis(normalize)
        self.scorer = nn.Linear(in_features, num_classes)
        self.score_activation = score_activation
        self.normalize = normalize

    def forward(self, x: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool `x` by scores of `features` (batch, frames, in_features)."""
        scores = self.scorer(features).to(x.dtype)
        if self.dim in (-1, 2):
            scores = scores.transpose(1, 2)
        return functional.attention_pool(
            x, scores, self.score_activation, self.normalize, **self._layout(mask)
        )


class _NonNegative(torch.autograd.Function):
    """max(θ, 0), with a gradient at and below 0 only where it leads back up: a power that reached 0
    must be able to leave it."""

    @staticmethod
    def forward(parameter: Tensor) -> Tensor:
        return parameter.clamp(min=0)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (parameter,) = ctx.saved_tensors
        return torch.where((parameter > 0) | (gradient < 0), gradient, 0)


_POOLINGS: dict[str, type[FramePool]] = {
    "mean": MeanPool,
    "max": MaxPool,
    "max_mean": MaxMeanPool,
    "linear_softmax": LinearSoftmaxPool,
    "exp_softmax": ExpSoftmaxPool,
    "auto": AutoPool,
    "power": PowerPool,
    "power_exp": PowerExpPool,
    "attention": AttentionPool,
    "noisy_or": NoisyOrPool,
    "rank": RankPool,
    "log_mean_exp": LogMeanExpPool,
}
_LEARNED_PER_CLASS = (AutoPool, PowerPool, PowerExpPool, AttentionPool, LogMeanExpPool)


def list_poolings(probabilities: bool = False) -> list[str]:
    """Names that `build_pooling` takes; with `probabilities` those that give a probability."""
    return [
        name for name, kind in _POOLINGS.items() if kind.gives_probabilities or not probabilities
    ]


def build_pooling(name: str, num_classes: int, **options: object) -> FramePool:
    """Build a frame-level pooling by its function's name without `_pool`.

    `options` go to the module: `dim`, `from_logits`, and its own (`in_features` for "attention").

    Raises:
        ValueError: for an unknown name.
        TypeError: for an option that the module does not take.
    """
    if name not in _POOLINGS:
        raise ValueError(f"pooling: expected one of {', '.join(_POOLINGS)}, got {name!r}")
    module = _POOLINGS[name]
    if issubclass(module, _LEARNED_PER_CLASS):
        return module(num_classes=num_classes, **options)
    return module(**options)
