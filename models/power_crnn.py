"""The network of power pooling.

Liu, Chen, Wang and Zhang, "Power pooling: An adaptive pooling function for weakly labelled sound
event detection", 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.dcase2017_crnn import Dcase2017Crnn


class PowerCrnn(Dcase2017Crnn):
    """`Dcase2017Crnn` with batch normalisation in each block, a second GRU layer and one power for
    each class.

    This is the paper's network for DCASE 2017. For DCASE 2019 the paper takes preprocessing and
    backbone from its reference 19 and the feature extractor from its reference 21, which are not
    here.

    The powers' penalty λ is 10⁻⁴, the paper's for DCASE 2017; for DCASE 2019 it takes
    `pooling_options={"penalty": 0.0}`.
    """

    default_pooling = "power"

    def __init__(
        self,
        num_classes: int,
        pooling: str = default_pooling,
        mels: int = 64,
        channels: Sequence[int] = (32, 64, 128),
        gru_width: int = 100,
        gru_layers: int = 2,
        pooling_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            num_classes,
            pooling,
            mels,
            channels,
            gru_width,
            gru_layers,
            batch_norm=True,
            pooling_options=pooling_options,
        )
