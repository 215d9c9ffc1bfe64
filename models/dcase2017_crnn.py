"""The convolutional and recurrent network of Wang, Li and Metze for the DCASE 2017 challenge.

Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for sound
event detection with weak labeling", 2019, section 3.1 and figure 2 (left).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.layers.convolution import ConvolutionBlock, Pool
from models.layers.crnn import Crnn, embedding_width
from models.layers.frame_head import FrameHead
from models.layers.initialisation import initialise
from models.layers.recurrence import BidirectionalGru


class Dcase2017Crnn(Crnn):
    """Three 5×5 convolutions, a bidirectional GRU, a linear layer and a pooling over frames.

    Max pooling halves the bands three times and the frames twice: 400 input frames of 25 ms give
    100 output frames of 100 ms. Frames past a clip's length touch nothing: they are zeros, as
    beyond the edge, for each convolution, and are absent for the GRU and the pooling.

    Args:
        num_classes: how many.
        pooling: name for `milkernels.nn.build_pooling`, of a pooling that gives probabilities.
        mels: bands of the input.
        channels: maps of the three convolutions.
        gru_width: GRU units per direction.
        gru_layers: how many.
        batch_norm: after each convolution.
        pooling_options: the pooling's own.
    """

    features = "dcase2017"
    default_pooling = "linear_softmax"

    def __init__(
        self,
        num_classes: int,
        pooling: str = default_pooling,
        mels: int = 64,
        channels: Sequence[int] = (32, 64, 128),
        gru_width: int = 100,
        gru_layers: int = 1,
        batch_norm: bool = False,
        pooling_options: Mapping[str, object] | None = None,
    ) -> None:
        pools = ((1, 2), (2, 2), (2, 2))
        if len(channels) != len(pools):
            raise ValueError(f"channels: expected {len(pools)} numbers, got {list(channels)}")
        widths = (1, *channels)
        blocks = [
            ConvolutionBlock(
                widths[index],
                widths[index + 1],
                layers=1,
                pool=Pool("max", size),
                kernel=5,
                bias=True,
                batch_norm=batch_norm,
            )
            for index, size in enumerate(pools)
        ]
        width = embedding_width(blocks, channels[-1], mels)
        super().__init__(
            blocks,
            BidirectionalGru(width, gru_width, gru_layers),
            FrameHead(2 * gru_width, num_classes, pooling, pooling_options),
        )
        initialise(self)
