"""Convolutional and recurrent networks: what four of the published systems have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers.convolution import ConvolutionBlock, reduction
from models.layers.frame_head import FRAME_POOLINGS, FrameHead
from models.layers.padding import as_maps
from models.network import Network, in_channels_last
from models.output import DetectorOutput


class Crnn(Network):
    """Blocks of convolutions, a recurrent layer over frames, and a head.

    Args:
        blocks: from one map to the maps whose bands are the frames' embeddings.
        recurrence: takes (batch, frames, width) and the padding.
        head: from its output.

    Attributes:
        frame_reduction: input frames per output frame.
    """

    fixed_frames = False
    has_frames = True
    poolings = FRAME_POOLINGS

    def __init__(
        self, blocks: Sequence[ConvolutionBlock], recurrence: nn.Module, head: FrameHead
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        in_channels_last(self.blocks)
        self.recurrence = recurrence
        self.head = head
        self.frame_reduction = reduction(blocks)[0]

    @property
    def pooling(self) -> str:
        """The pooling's name."""
        return self.head.pooling

    @property
    def pool(self) -> nn.Module:
        """The pooling over frames."""
        return self.head.pool

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> DetectorOutput:
        """Detect events.

        Args:
            features: (batch, frames, mels).
            lengths: (batch,) real frames of each clip, the others follow them; None where all are
                real. Keep it on the CPU.
        """
        maps, padding = as_maps(features, lengths)
        for block in self.blocks:
            maps, padding = block(maps, padding)
        hidden = maps.transpose(1, 2).flatten(2)
        return self.head(self.recurrence(hidden, padding), padding)


def embedding_width(blocks: Sequence[ConvolutionBlock], channels: int, mels: int) -> int:
    """Width of a frame's embedding when `blocks` leave `channels` maps of `mels` bands."""
    return channels * -(-mels // reduction(blocks)[1])
