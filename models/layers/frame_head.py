"""From frame embeddings to probabilities: a linear layer and a pooling over frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from torch import Tensor, nn

from milkernels.nn import AttentionPool, build_pooling, list_poolings
from models.layers.padding import Padding
from models.output import DetectorOutput

FRAME_POOLINGS = tuple(list_poolings(probabilities=True))


class FrameHead(nn.Module):
    """Frame logits by a linear layer, clip probabilities by a pooling of them.

    Args:
        width: of the frame embeddings.
        num_classes: how many.
        pooling: name for `milkernels.nn.build_pooling`, of a pooling that gives probabilities.
        pooling_options: the pooling's own.
        scores_from: what attention scores a frame by: its embedding, or the probabilities of its
            classes.

    Raises:
        ValueError: for a pooling that is not there or gives no probability.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        pooling: str,
        pooling_options: Mapping[str, object] | None = None,
        scores_from: Literal["embedding", "probabilities"] = "embedding",
    ) -> None:
        super().__init__()
        check_pooling(pooling, FRAME_POOLINGS)
        self.classifier = nn.Linear(width, num_classes)
        self.pooling = pooling
        self.scores_from = scores_from
        options = dict(pooling_options or {})
        if pooling == "attention":
            options["in_features"] = width if scores_from == "embedding" else num_classes
        self.pool = build_pooling(pooling, num_classes, dim=1, from_logits=True, **options)

    def forward(self, hidden: Tensor, padding: Padding | None) -> DetectorOutput:
        """Probabilities from (batch, frames, width)."""
        # The pooling's arithmetic and its result stay in float32 under autocast.
        logits = self.classifier(hidden).float()
        mask = None if padding is None else padding.mask
        inputs = [logits]
        if isinstance(self.pool, AttentionPool):
            inputs.append(hidden if self.scores_from == "embedding" else logits.sigmoid())
        clip = self.pool(*inputs, mask=mask)
        return DetectorOutput(
            clip,
            logits,
            mask,
            self.pool.penalty(),
            from_logits=True,
            loss_of_clips=partial(pooled_loss, self.pool, inputs, mask),
        )


def pooled_loss(
    pool: nn.Module,
    inputs: Sequence[Tensor],
    mask: Tensor | None,
    target: Tensor,
    known: Tensor | None,
) -> Tensor:
    """Mean cross-entropy of what `pool` makes of `inputs`, from the logits: where a clip's
    probability rounds to 1 its loss and gradient do not.

    Args:
        target: (batch, classes) from 0 to 1.
        known: (batch,) bool, the clips that count; None for all.
    """
    label_mask = None if known is None else known[:, None].expand_as(target)
    loss: Tensor = cast(Any, pool).bce(*inputs, target, mask=mask, label_mask=label_mask)
    return loss


def check_pooling(pooling: str, expected: Sequence[str]) -> None:
    """Refuse a pooling that a network does not take.

    Raises:
        ValueError: naming those that it takes.
    """
    if pooling not in expected:
        raise ValueError(f"pooling: expected one of {', '.join(expected)}, got {pooling!r}")
