"""One module per pooling: its parameters, and a call of `milkernels.functional`.

Every frame-level module takes `(x, mask=None)` and is built with `dim` and `from_logits` as in
`milkernels.functional`; `AttentionPool` also takes the features that its scores come from.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from milkernels import functional, validation


class Layout(TypedDict):
    """What every frame-level function takes by keyword."""

    dim: int
    mask: Tensor | None
    from_logits: bool


class FramePool(nn.Module):
    """Base of the frame-level poolings: frame values in, (batch, classes) bag values out."""

    gives_probabilities = True
    """Whether probabilities give a probability."""

    def __init__(self, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__()
        validation.frame_dim(dim)
        validation.logits_flag(from_logits)
        self.dim = dim
        self.from_logits = from_logits

    def penalty(self) -> Tensor | float:
        """What the pooling adds to the caller's loss: 0 unless it was built with a penalty."""
        return 0.0

    def extra_repr(self) -> str:
        """What `repr` shows of the module."""
        return f"dim={self.dim}, from_logits={self.from_logits}"

    def _layout(self, mask: Tensor | None) -> Layout:
        return {"dim": self.dim, "mask": mask, "from_logits": self.from_logits}


class _OfFrames(FramePool):
    """A pooling that needs nothing beside the frame values and its own parameters."""

    #: The function that the module calls, by its name.
    _function: str

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bag values (batch, classes) of the frames of `x` where `mask` (batch, frames) is True."""
        function = getattr(functional, self._function)
        return function(x, *self._parameters_used(), **self._layout(mask))

    def bce(self, x: Tensor, target: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """The pooling and its binary cross-entropy with `target` (batch, classes) in one pass:
        `milkernels.functional.pool_bce` of the module's parameters, which `options` are for. `x` is
        what the module was built for: probabilities, unless `from_logits`."""
        if not self.gives_probabilities:
            name = type(self).__name__
            raise TypeError(f"{name}: its values are no probabilities, it has no cross-entropy")
        name = self._function.removesuffix("_pool")
        layout = self._layout(mask)
        return functional.pool_bce(name, x, target, *self._parameters_used(), **layout, **options)

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        """What the function takes after x."""
        return ()


class MeanPool(_OfFrames):
    """`milkernels.functional.mean_pool`.

    >>> MeanPool()(torch.tensor([[[0.2, 0.4]]]))
    tensor([[0.3000]])
    """

    _function = "mean_pool"


class MaxPool(_OfFrames):
    """`milkernels.functional.max_pool`.

    >>> MaxPool()(torch.tensor([[[0.2, 0.4]]]))
    tensor([[0.4000]])
    """

    _function = "max_pool"


class MaxMeanPool(_OfFrames):
    """`milkernels.functional.max_mean_pool`, for embeddings (PANNs' pooling).

    >>> MaxMeanPool()(torch.tensor([[[-1.0, 3.0]]]))
    tensor([[4.]])
    """

    gives_probabilities = False
    _function = "max_mean_pool"


class NoisyOrPool(_OfFrames):
    """`milkernels.functional.noisy_or_pool`.

    >>> NoisyOrPool()(torch.tensor([[[0.5, 0.5]]]))
    tensor([[0.7500]])
    """

    _function = "noisy_or_pool"


class RankPool(_OfFrames):
    """`milkernels.functional.rank_pool`: global weighted rank pooling.

    Args:
        decay: what a frame's weight is to that of the frame ranked before it, in [0, 1]. Half of
            the whole weight is on the first ln 0.5 / ln decay frames: 69 of them for 0.99.

    >>> RankPool(decay=0.5)(torch.tensor([[[0.3, 0.9]]]))
    tensor([[0.7000]])
    """

    _function = "rank_pool"

    def __init__(self, decay: float = 0.99, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__(dim, from_logits)
        validation.decay(decay)
        self.decay = decay

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        return (self.decay,)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, {super().extra_repr()}"


class LogMeanExpPool(_OfFrames):
    """`milkernels.functional.log_mean_exp_pool`, with one sharpness for all classes or a learned
    one for each.

    Args:
        num_classes: learn a sharpness for each of so many classes; None keeps one for all.
        init: the sharpness, at the start. 5 as in Pinheiro and Collobert, 2015.

    >>> LogMeanExpPool(num_classes=1)(torch.tensor([[[0.2, 0.8]]])).detach()
    tensor([[0.6711]])
    """

    _function = "log_mean_exp_pool"

    def __init__(
        self,
        num_classes: int | None = None,
        init: float = 5.0,
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        validation.sharpness(init, 1, torch.device("cpu"))
        if num_classes is not None:
            validation.count("num_classes", num_classes)
        self.sharpness: float | nn.Parameter = (
            init if num_classes is None else nn.Parameter(torch.full((num_classes,), float(init)))
        )

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        return (self.sharpness,)


class LinearSoftmaxPool(_OfFrames):
    """`milkernels.functional.linear_softmax_pool`.

    >>> LinearSoftmaxPool()(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.5000]])
    """

    _function = "linear_softmax_pool"


class ExpSoftmaxPool(_OfFrames):
    """`milkernels.functional.exp_softmax_pool`.

    >>> ExpSoftmaxPool()(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.4395]])
    """

    _function = "exp_softmax_pool"


class AutoPool(_OfFrames):
    """`milkernels.functional.auto_pool` with a learned alpha per class.

    Args:
        num_classes: how many.
        init: alpha at the start.
        max_alpha: holds |alpha| at this (constrained auto-pool, CAP).
        penalty: λ of `penalty()`, λ Σ α_c² (regularised auto-pool, RAP).

    >>> pool = AutoPool(num_classes=3, init=2.0, penalty=0.1)
    >>> pool(torch.rand(4, 3, 50)).shape
    torch.Size([4, 3])
    >>> round(pool.penalty().item(), 4)
    1.2
    """

    _function = "auto_pool"

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
        validation.count("num_classes", num_classes)
        validation.number("init", init)
        validation.number("penalty", penalty)
        if max_alpha is not None:
            validation.number("max_alpha", max_alpha, least=0)
        self.alpha = nn.Parameter(torch.full((num_classes,), float(init)))
        self.max_alpha = max_alpha
        self._penalty = penalty

    def constrained_alpha(self) -> Tensor:
        """Alpha within its bound, as the pooling uses it."""
        if self.max_alpha is None:
            return self.alpha
        return self.alpha.clamp(-self.max_alpha, self.max_alpha)

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        return (self.constrained_alpha(),)

    def penalty(self) -> Tensor | float:
        """λ Σ α_c², for the caller's loss."""
        return self._penalty * self.alpha.square().sum()


class PowerPool(_OfFrames):
    """`milkernels.functional.power_pool` with a learned power n ≥ 0 per class, linear softmax at
    the start.

    Args:
        num_classes: how many.
        init: n at the start.
        penalty: λ of `penalty()`, λ Σ n_c².

    >>> PowerPool(num_classes=3, dim=1, from_logits=True)(torch.randn(4, 50, 3)).shape
    torch.Size([4, 3])
    """

    _function = "power_pool"

    def __init__(
        self,
        num_classes: int,
        init: float = 1.0,
        penalty: float = 1e-4,
        dim: int = -1,
        from_logits: bool = False,
    ) -> None:
        super().__init__(dim, from_logits)
        validation.count("num_classes", num_classes)
        validation.number("init", init, least=0)
        validation.number("penalty", penalty)
        self.power = nn.Parameter(torch.full((num_classes,), float(init)))
        self._penalty = penalty

    def constrained_power(self) -> Tensor:
        """n, at least 0, as the pooling uses it."""
        return _NonNegative.apply(self.power)

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        return (self.constrained_power(),)

    def penalty(self) -> Tensor | float:
        """λ Σ n_c², for the caller's loss."""
        return self._penalty * self.constrained_power().square().sum()


class PowerExpPool(_OfFrames):
    """`milkernels.functional.power_exp_pool` with a learned power β ≥ 0 and alpha per class.

    Starts at linear softmax (β = 1, α = 0).

    >>> PowerExpPool(num_classes=1)(torch.tensor([[[0.2, 0.6]]])).detach()
    tensor([[0.5000]])
    """

    _function = "power_exp_pool"

    def __init__(self, num_classes: int, dim: int = -1, from_logits: bool = False) -> None:
        super().__init__(dim, from_logits)
        validation.count("num_classes", num_classes)
        self.power = nn.Parameter(torch.ones(num_classes))
        self.alpha = nn.Parameter(torch.zeros(num_classes))

    def _parameters_used(self) -> tuple[Tensor | float, ...]:
        return _NonNegative.apply(self.power), self.alpha


class AttentionPool(FramePool):
    """`milkernels.functional.attention_pool` with a linear layer that scores each frame for each
    class.

    Args:
        in_features: width of the features that the scores come from.
        num_classes: how many.
        score_activation: None, "sigmoid", "tanh" or "clamp".
        normalize: "frames", or "classes" as in the DESED baseline.

    >>> pool = AttentionPool(in_features=64, num_classes=3)
    >>> pool(torch.rand(4, 3, 50), torch.randn(4, 50, 64)).shape
    torch.Size([4, 3])
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
        validation.count("in_features", in_features)
        validation.count("num_classes", num_classes)
        validation.score_activation(score_activation)
        validation.score_axis(normalize)
        self.scorer = nn.Linear(in_features, num_classes)
        self.score_activation = score_activation
        self.normalize = normalize

    def forward(self, x: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool `x` by scores of `features` (batch, frames, in_features)."""
        return functional.attention_pool(
            x,
            self._scores(x, features),
            self.score_activation,
            self.normalize,
            **self._layout(mask),
        )

    def bce(
        self,
        x: Tensor,
        features: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The pooling and its binary cross-entropy with `target` (batch, classes) in one pass:
        `milkernels.functional.pool_bce`, which `options` are for."""
        return functional.pool_bce(
            "attention",
            x,
            target,
            self._scores(x, features),
            self.score_activation,
            self.normalize,
            **self._layout(mask),
            **options,
        )

    def _scores(self, x: Tensor, features: Tensor) -> Tensor:
        """Scores of x's frames, in its layout and dtype."""
        dim = validation.frame_dim(self.dim)
        validation.scored_features(features, self.scorer.in_features, x, dim)
        scores = self.scorer(features).to(x.dtype)
        return scores.transpose(1, 2) if dim == 2 else scores


class _NonNegative(torch.autograd.Function):
    """max(θ, 0), with a gradient at and below 0 only where it leads back up: a power that reached 0
    must be able to leave it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(parameter: Tensor) -> Tensor:
        return parameter.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (parameter,) = ctx.saved_tensors
        return torch.where((parameter > 0) | (gradient < 0), gradient, 0)
