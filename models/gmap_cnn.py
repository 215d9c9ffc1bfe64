"""The network of gated multi-head attention pooling, a tagger.

Hong, Zou and Wang, "Gated multi-head attention pooling for weakly labelled audio tagging",
Interspeech 2020, section 4.3. Widths, which the paper does not give, are those of PANNs' CNN10.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from milkernels.nn import GMAP, AttentionPool, AttentionStatsPool, build_pooling
from models.layers.convolution import ConvolutionBlock, Pool, reduction
from models.layers.frame_head import check_pooling
from models.layers.initialisation import initialise
from models.layers.padding import as_maps
from models.network import Network, in_channels_last
from models.output import DetectorOutput


class GmapCnn(Network):
    """Four blocks of two 3×3 convolutions, a pooling of the frames' embeddings, two linear layers.

    An embedding is the mean of a frame's bands. The system pools embeddings and has probabilities
    of clips alone.

    Args:
        num_classes: how many.
        pooling: one of `poolings`. "attention" scores each channel of a frame by a linear layer,
            "attention_stats" is the paper's single-head pooling, with standard deviations, "gmap"
            its multi-head pooling with a gate.
        mels: bands of the input.
        channels: maps of the four blocks.
        heads: of "gmap".
        hidden_width: between the two linear layers.

    Attributes:
        frame_reduction: input frames per embedding.
    """

    features = "dcase2017"
    default_pooling = "gmap"
    fixed_frames = False
    has_frames = False
    poolings = ("max", "mean", "max_mean", "attention", "attention_stats", "gmap")

    def __init__(
        self,
        num_classes: int,
        pooling: str = default_pooling,
        mels: int = 64,
        channels: Sequence[int] = (64, 128, 256, 512),
        heads: int = 4,
        hidden_width: int = 512,
    ) -> None:
        super().__init__()
        check_pooling(pooling, self.poolings)
        self.pooling = pooling
        if len(channels) != 4:
            raise ValueError(f"channels: expected 4 numbers, got {list(channels)}")
        widths = (1, *channels)
        blocks = [
            ConvolutionBlock(widths[index], widths[index + 1], pool=Pool("average", (2, 2)))
            for index in range(4)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.frame_reduction = reduction(blocks)[0]
        width = channels[-1]
        with_deviations = pooling in ("attention_stats", "gmap")
        self.pool = _build_pooling(pooling, width, heads)
        self.hidden = nn.Linear(2 * width if with_deviations else width, hidden_width)
        self.classifier = nn.Linear(hidden_width, num_classes)
        initialise(self)
        in_channels_last(self.blocks)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> DetectorOutput:
        """Tag clips.

        Args:
            features: (batch, frames, mels).
            lengths: (batch,) real frames of each clip, as in `Crnn`.
        """
        maps, padding = as_maps(features, lengths)
        for block in self.blocks:
            maps, padding = block(maps, padding)
        embedding = maps.mean(3).transpose(1, 2)  # (batch, frames, width), as it lies in memory
        mask = None if padding is None else padding.mask
        scored = [embedding] if isinstance(self.pool, AttentionPool) else []
        pooled = self.pool(embedding, *scored, mask=mask)
        logits = self.classifier(functional.relu(self.hidden(pooled))).float()
        return DetectorOutput(
            logits.sigmoid(), None, mask, loss_of_clips=partial(_loss_of_logits, logits)
        )


def _loss_of_logits(logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    if known is not None:
        logits, target = logits[known], target[known]
    return functional.binary_cross_entropy_with_logits(logits, target.float())


def _build_pooling(name: str, width: int, heads: int) -> nn.Module:
    if name == "gmap":
        return GMAP(width, heads, frame_dim=1)
    if name == "attention_stats":
        return AttentionStatsPool(width, frame_dim=1)
    scorer = {"in_features": width} if name == "attention" else {}
    return build_pooling(name, width, dim=1, **scorer)
