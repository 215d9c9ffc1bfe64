"""The baselines that two-step attention is compared with: pooling over time and frequency at once.

Deshmukh, Raj and Singh, "Multi-task learning for interpretable weakly labelled sound event
detection", 2020, section V (GMP, GAP, GWRP, Atrous AP); layers as in their authors' program. The
atrous network is that of Ren et al., "Attention-based atrous convolutional neural networks", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from milkernels.nn import AttentionPool, FramePool, build_pooling
from models.layers.convolution import ConvolutionBlock
from models.layers.frame_head import FRAME_POOLINGS, check_pooling, pooled_loss
from models.layers.initialisation import initialise
from models.layers.padding import as_maps
from models.network import Network, in_channels_last
from models.output import DetectorOutput

Backbone = Literal["vgg", "atrous"]

_WIDTHS = {"vgg": (32, 64, 128, 128), "atrous": (64, 128, 256)}
_GWRP_DECAY = 0.9998
_WEIGHT_RANGE = (0.1, 0.9)


class AtrousCnn(Network):
    """Convolutions that keep every frame and band, whose cells are pooled together.

    A frame's probability is the mean of its bands'.

    Args:
        num_classes: how many.
        pooling: name for `milkernels.nn.build_pooling`, of a pooling that gives probabilities.
            "attention" weighs each cell by a sigmoid of a second 1×1 convolution, held in
            [0.1, 0.9]; the decay of "rank" is 0.9998 unless `pooling_options` says otherwise.
        mels: bands of the input; any number.
        backbone: "vgg", four pairs of 3×3 convolutions, or "atrous", three 5×5 convolutions of
            dilation 1, 2 and 4; None for the paper's: atrous for attention, VGG for the others.
        channels: maps of its blocks; None for the paper's.
        pooling_options: the pooling's own.

    Attributes:
        frame_reduction: input frames per output frame, 1.
    """

    features = "two_step_autoencoder"
    default_pooling = "attention"
    fixed_frames = False
    has_frames = True
    poolings = FRAME_POOLINGS
    frame_reduction = 1

    def __init__(
        self,
        num_classes: int,
        pooling: str = default_pooling,
        mels: int = 64,
        backbone: Backbone | None = None,
        channels: Sequence[int] | None = None,
        pooling_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        check_pooling(pooling, self.poolings)
        self.pooling = pooling
        backbone = backbone or ("atrous" if pooling == "attention" else "vgg")
        if backbone not in _WIDTHS:
            raise ValueError(f"backbone: expected one of {', '.join(_WIDTHS)}, got {backbone!r}")
        channels = channels or _WIDTHS[backbone]
        if len(channels) != len(_WIDTHS[backbone]):
            expected = len(_WIDTHS[backbone])
            raise ValueError(f"channels: expected {expected} numbers, got {list(channels)}")
        widths = (1, *channels)
        self.blocks = nn.ModuleList(
            ConvolutionBlock(widths[index], widths[index + 1])
            if backbone == "vgg"
            else ConvolutionBlock(
                widths[index], widths[index + 1], layers=1, kernel=5, dilation=2**index
            )
            for index in range(len(channels))
        )
        self.classifier = nn.Conv2d(channels[-1], num_classes, kernel_size=1)
        options: dict[str, Any] = dict(pooling_options or {})
        self.pool: FramePool
        if pooling == "attention":
            self.pool = CellAttentionPool(channels[-1], num_classes, **options)
        else:
            options = {"decay": _GWRP_DECAY, **options} if pooling == "rank" else options
            self.pool = build_pooling(pooling, num_classes, dim=1, from_logits=True, **options)
        initialise(self)
        if isinstance(self.pool, CellAttentionPool):
            nn.init.zeros_(self.pool.scorer.weight)  # all cells weigh the same at the start
        in_channels_last(self.blocks)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> DetectorOutput:
        """Detect events.

        Args:
            features: (batch, frames, mels).
            lengths: (batch,) real frames of each clip, as in `Crnn`.
        """
        maps, padding = as_maps(features, lengths)
        for block in self.blocks:
            maps, padding = block(maps, padding)
        logits = _cells(self.classifier(maps)).float()
        mask = None if padding is None else padding.mask
        inputs = [logits]
        if isinstance(self.pool, AttentionPool):
            inputs.append(_cells(maps))
        cell_mask = None if mask is None else mask.repeat_interleave(maps.shape[3], 1)
        clip = self.pool(*inputs, mask=cell_mask)
        frame = logits.sigmoid().unflatten(1, maps.shape[2:]).mean(2)
        loss = partial(pooled_loss, self.pool, inputs, cell_mask)
        return DetectorOutput(clip, frame, mask, self.pool.penalty(), loss_of_clips=loss)


class CellAttentionPool(AttentionPool):
    """Attention with weights w = σ(s) held in [0.1, 0.9], of cells first and logits."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes, dim=1, from_logits=True)

    def _scores(self, x: Tensor, features: Tensor) -> Tensor:
        return self.scorer(features).to(x.dtype).sigmoid().clamp(*_WEIGHT_RANGE).log()


def _cells(maps: Tensor) -> Tensor:
    """Maps as (batch, frames · bands, channels), as they lie in memory."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
