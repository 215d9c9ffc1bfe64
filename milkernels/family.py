"""The weighted averages that share one formula, and the activations of their scores.

Every member weighs a frame of value x by exp(a·x + b·log x + s): see `Member`.
Kernels and wrappers read a member's coefficients here, so a new member is one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Coefficient = Literal["none", "one", "learned"]

#: Frame values at or below this weigh as if they were this, wherever a weight takes log x.
WEIGHT_FLOOR = 1e-7

#: Bound of the "clamp" activation of attention scores (PANNs' AttBlock).
SCORE_CLAMP = 10.0

#: A share of the softmax over the classes counts as at least this (the DESED baseline).
SHARE_FLOOR = 1e-7

SCORE_ACTIVATIONS: tuple[str | None, ...] = (None, "sigmoid", "tanh", "clamp")

#: What a pooling with scores takes after x.
SCORE_PARAMETERS = ("scores", "score_activation", "normalize")

#: Axes along which attention's scores are normalised.
SCORE_AXES = ("frames", "classes")


@dataclass(frozen=True)
class Member:
    """Coefficients of one weighted average: the weight is exp(alpha·x + power·log x + score)."""

    alpha: Coefficient = "none"
    power: Coefficient = "none"
    scores: bool = False

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the per-class parameters that the member takes, in argument order."""
        return tuple(name for name in ("power", "alpha") if getattr(self, name) == "learned")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all that the member's function takes after x, in order."""
        return (*self.learned, *(SCORE_PARAMETERS if self.scores else ()))

    def weighs_directly(self, from_logits: bool) -> bool:
        """Whether the weight needs no exponential: 1, or x itself where it cannot underflow."""
        own_value = self.power == "one" and not from_logits
        return self.alpha == "none" and not self.scores and (self.power == "none" or own_value)


@dataclass(frozen=True)
class Average:
    """What is asked of a member's kernels. `learn`: its parameters' gradients are wanted."""

    member: str
    score_activation: str | None
    from_logits: bool
    learn: bool


@dataclass(frozen=True)
class PooledLoss:
    """Which pooling a cross-entropy is computed of: a function's name without `_pool`, or
    "class_attention"."""

    name: str
    decay: float
    score_activation: str | None
    from_logits: bool


WEIGHTED_AVERAGES: dict[str, Member] = {
    "mean": Member(),
    "linear_softmax": Member(power="one"),
    "exp_softmax": Member(alpha="one"),
    "auto": Member(alpha="learned"),
    "power": Member(power="learned"),
    "power_exp": Member(alpha="learned", power="learned"),
    "attention": Member(scores=True),
}

#: Positions of a row up to which Triton's linear attention holds both weights in one tile, and
#: needs no statistics of a row in its backward pass.
NARROW_ROW = 64

#: Up to this many frames a rank fits into 16 bits.
SHORT_BAG = 2**15 - 1

#: What each frame-level pooling takes after x, in order: tensors and options.
POOLING_PARAMETERS: dict[str, tuple[str, ...]] = {
    **{name: member.parameters for name, member in WEIGHTED_AVERAGES.items()},
    "max": (),
    "max_mean": (),
    "noisy_or": (),
    "rank": ("decay",),
    "log_mean_exp": ("sharpness",),
}
