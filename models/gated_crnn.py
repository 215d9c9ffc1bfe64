"""The gated convolutional and recurrent network of Xu et al., for DCASE 2017.

Xu, Kong, Wang and Plumbley, "Large-scale weakly supervised audio classification using gated
convolutional neural network", 2018. Where the paper is silent, as its authors' program has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from models.layers.convolution import ConvolutionBlock, Pool, Size
from models.layers.crnn import Crnn, embedding_width
from models.layers.frame_head import FrameHead
from models.layers.initialisation import initialise
from models.layers.recurrence import GatedBidirectionalGru

Task = Literal["tagging", "detection"]

_POOLS: dict[str, tuple[Size, ...]] = {
    "tagging": ((2, 2), (2, 2), (2, 2), (1, 2), (1, 4)),
    "detection": ((1, 2), (1, 2), (1, 2), (1, 2), (1, 4)),
}
_GATED_LAYERS = (2, 2, 2, 1)  # the program builds an eighth and leaves it unconnected
_POOLINGS = {"tagging": "mean", "detection": "attention"}


class GatedCrnn(Crnn):
    """Seven gated convolutions, one with ReLU, a gated recurrent layer and a pooling over frames.

    For tagging the frames are pooled to an eighth (240 to 30) and averaged. For detection all
    frames are kept, and localisation weighs them: a second linear layer, of the classes'
    probabilities at a frame, whose softmax over the classes is Z (eqs. 3 and 4).

    Args:
        num_classes: how many.
        pooling: name for `milkernels.nn.build_pooling`, of a pooling that gives probabilities;
            None for the task's own, "mean" of tagging and "attention" of detection.
        mels: bands of the input.
        task: "tagging" or "detection".
        channels: maps of the gated convolutions.
        last_channels: maps of the last convolution.
        gru_width: GRU units per direction.
        pooling_options: the pooling's own; attention's `normalize` is "classes" without it.
    """

    features = "gated_crnn"
    default_pooling = _POOLINGS["detection"]

    def __init__(
        self,
        num_classes: int,
        pooling: str | None = None,
        mels: int = 64,
        task: Task = "detection",
        channels: int = 64,
        last_channels: int = 256,
        gru_width: int = 128,
        pooling_options: Mapping[str, object] | None = None,
    ) -> None:
        if task not in _POOLS:
            raise ValueError(f"task: expected one of {', '.join(_POOLS)}, got {task!r}")
        *pools, last_pool = (Pool("max", size) for size in _POOLS[task])
        blocks = [
            ConvolutionBlock(channels if index else 1, channels, layers, pool, activation="glu")
            for index, (layers, pool) in enumerate(zip(_GATED_LAYERS, pools, strict=True))
        ]
        blocks.append(
            ConvolutionBlock(channels, last_channels, 1, last_pool, batch_norm=False, bias=True)
        )
        pooling = pooling or _POOLINGS[task]
        options = {"normalize": "classes"} if pooling == "attention" else {}
        super().__init__(
            blocks,
            GatedBidirectionalGru(embedding_width(blocks, last_channels, mels), gru_width),
            FrameHead(
                2 * gru_width,
                num_classes,
                pooling,
                {**options, **(pooling_options or {})},
                scores_from="probabilities",
            ),
        )
        initialise(self)
