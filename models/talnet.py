"""TALNet, the network of Wang, Li and Metze for AudioSet.

Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for sound
event detection with weak labeling", 2019, section 3.2 and figure 2 (right).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.layers.convolution import ConvolutionBlock, Pool
from models.layers.crnn import Crnn, embedding_width
from models.layers.frame_head import FrameHead
from models.layers.initialisation import initialise
from models.layers.recurrence import BidirectionalGru


class TalNet(Crnn):
    """Ten 3×3 convolutions with batch normalisation, a bidirectional GRU and a pooling over frames.

    Every second convolution is followed by max pooling: of the bands five times, of the frames the
    first two times, which makes 100 output frames of 400.

    Args:
        num_classes: how many.
        pooling: name for `milkernels.nn.build_pooling`, of a pooling that gives probabilities.
        mels: bands of the input.
        channels: maps of the five pairs of convolutions.
        gru_width: GRU units per direction.
        pooling_options: the pooling's own.
    """

    features = "dcase2017"
    default_pooling = "linear_softmax"

    def __init__(
        self,
        num_classes: int,
        pooling: str = default_pooling,
        mels: int = 64,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        gru_width: int = 512,
        pooling_options: Mapping[str, object] | None = None,
    ) -> None:
        pools = ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2))
        if len(channels) != len(pools):
            raise ValueError(f"channels: expected {len(pools)} numbers, got {list(channels)}")
        widths = (1, *channels)
        blocks = [
            ConvolutionBlock(widths[index], widths[index + 1], pool=Pool("max", size), bias=True)
            for index, size in enumerate(pools)
        ]
        width = embedding_width(blocks, channels[-1], mels)
        super().__init__(
            blocks,
            BidirectionalGru(width, gru_width),
            FrameHead(2 * gru_width, num_classes, pooling, pooling_options),
        )
        initialise(self)
