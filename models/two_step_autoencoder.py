"""Two-step attention pooling with a reconstructing decoder (2APAE).

Deshmukh, Raj and Singh, "Multi-task learning for interpretable weakly labelled sound event
detection", 2020; the decoder's last block and the biases as in their authors' program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from milkernels import functional
from milkernels.nn import TwoStepAttention
from milkernels.nn.embedding_level import LinearAttention
from models.layers.convolution import ConvolutionBlock, Pool
from models.layers.frame_head import check_pooling
from models.layers.initialisation import initialise
from models.layers.padding import Padding, as_maps
from models.losses import squared_error
from models.network import Network, in_channels_last
from models.output import DetectorOutput

POOLING = "two_step_attention"

_SMOOTH = Pool("smooth")


@dataclass
class AutoencoderOutput(DetectorOutput):
    """`DetectorOutput` and what the decoder made of the clip.

    Attributes:
        reconstruction: (batch, frames, mels), in the features' own scale; 0 where no frame is real.
            Its last block ends in a ReLU, so it is at least 0.
    """

    reconstruction: Tensor | None = None


@dataclass(frozen=True)
class Explanation:
    """What the system's figures show, with 0 in padded frames.

    Attributes:
        frequency_attention: (batch, classes, frames, mels) weights of the first step, of sum 1 over
            the bands of each frame.
        first_step: (batch, classes, frames), its result.
        time_attention: (batch, classes, frames) weights of the second step, of sum 1 over a clip.
        second_step: (batch, classes), its result; `clip` is this, or its sigmoid for "paper".
        clip: (batch, classes) probabilities.
        reconstruction: (batch, frames, mels).
    """

    frequency_attention: Tensor
    first_step: Tensor
    time_attention: Tensor
    second_step: Tensor
    clip: Tensor
    reconstruction: Tensor


class TwoStepAutoencoder(Network):
    """An encoder to class maps, attention over frequency and then over time, and a decoder.

    Nothing is pooled away before the attention: the blocks smooth their maps and keep every frame
    and band. The decoder starts from the maps before they become classes. In training the output's
    penalty is α times the mean squared error of the reconstruction over real frames; the pooling
    over frames is part of the system and cannot be exchanged.

    A frame's probability is the first step's result at it, for "paper" its sigmoid. The second
    step's layers have a weight for each pair of frames, so clips have at most `num_frames` frames;
    those that a shorter one lacks weigh nothing.

    Args:
        num_classes: how many.
        pooling: "two_step_attention".
        mels: bands of the input.
        num_frames: most frames of a clip.
        variant: of the attention, "paper" or "code", as in `milkernels.nn.TwoStepAttention`.
        channels: maps of the encoder's blocks; the decoder has them in reverse order.
        alpha: weight α of the reconstruction's error.

    Attributes:
        frame_reduction: input frames per output frame, 1.
    """

    features = "two_step_autoencoder"
    default_pooling = POOLING
    poolings = (POOLING,)
    fixed_frames = True
    has_frames = True
    frame_reduction = 1

    def __init__(
        self,
        num_classes: int,
        pooling: str = POOLING,
        mels: int = 64,
        num_frames: int = 311,
        variant: str = "paper",
        channels: Sequence[int] = (32, 64, 128, 256),
        alpha: float = 0.001,
    ) -> None:
        super().__init__()
        check_pooling(pooling, self.poolings)
        self.pooling = pooling
        self.num_frames = num_frames
        self.alpha = alpha
        self.encoder = _blocks((1, *channels))
        self.classifier = nn.Conv2d(channels[-1], num_classes, kernel_size=1)
        self.pool = MaskedTwoStepAttention(mels, num_frames, variant)
        self.decoder = _blocks((*reversed(channels), 1))
        initialise(self)
        in_channels_last(self.encoder)
        in_channels_last(self.decoder)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> AutoencoderOutput:
        """Detect events and reconstruct the features.

        Args:
            features: (batch, frames, mels), at most `num_frames` frames.
            lengths: (batch,) real frames of each clip, as in `Crnn`.

        Raises:
            ValueError: for more frames than `num_frames`.
        """
        maps, padding = self._encode(features, lengths)
        first, second = self.pool.steps(self._class_maps(maps), padding)
        reconstruction = self._decode(maps, padding)
        mask = None if padding is None else padding.mask
        penalty: Tensor | float = 0.0
        if self.training:
            penalty = self.alpha * squared_error(reconstruction, features, mask)
        frame = self._probability(first).transpose(1, 2)
        clip = self._probability(second)
        return AutoencoderOutput(clip, frame, mask, penalty, reconstruction=reconstruction)

    def explain(self, features: Tensor, lengths: Tensor | None = None) -> Explanation:
        """What each step attended to and gave. Takes what `forward` takes, and some times the class
        maps' memory."""
        maps, padding = self._encode(features, lengths)
        class_maps = self._class_maps(maps)
        first, second = self.pool.steps(class_maps, padding)
        over_frequency, over_time = self.pool.weights(class_maps, first, padding)
        return Explanation(
            over_frequency,
            first,
            over_time,
            second,
            self._probability(second),
            self._decode(maps, padding),
        )

    def _encode(self, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Padding | None]:
        if features.shape[1] > self.num_frames:
            raise ValueError(
                f"features: expected at most {self.num_frames} frames, got {features.shape[1]}: "
                "build the network with num_frames"
            )
        maps, padding = as_maps(features, lengths)
        for block in self.encoder:
            maps, padding = block(maps, padding)
        return maps, padding

    def _class_maps(self, maps: Tensor) -> Tensor:
        # The attention's rows of bands lie side by side; its arithmetic stays in float32.
        return self.classifier(maps).float().contiguous()

    def _decode(self, maps: Tensor, padding: Padding | None) -> Tensor:
        for block in self.decoder:
            maps, padding = block(maps, padding)
        return maps.squeeze(1)

    def _probability(self, value: Tensor) -> Tensor:
        return value.sigmoid() if self.pool.variant == "paper" else value


class MaskedTwoStepAttention(TwoStepAttention):
    """`TwoStepAttention` over clips of any number of frames up to `num_frames`: those that are
    padded or not there count in neither step."""

    def __init__(self, num_freqs: int, num_frames: int, variant: str) -> None:
        super().__init__(num_freqs, num_frames, variant)
        self.variant = variant
        self.over_time = MaskedLinearAttention(num_frames, variant)

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """(batch, classes) from class maps (batch, classes, frames, mels)."""
        return self.steps(x, padding)[1]

    def steps(self, class_maps: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """The first step's result (batch, classes, frames), the second's (batch, classes)."""
        first = self.over_frequency(class_maps)
        if padding is not None:
            first = first.masked_fill(~padding.mask[:, None], 0)
        return first, self.over_time(*self._row(first, padding))

    def weights(
        self, class_maps: Tensor, first: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor]:
        """The weights of the first step (batch, classes, frames, mels) and of the second (batch,
        classes, frames), 0 in padded frames."""
        rows = class_maps.flatten(1, 2)  # every frame of a class is a bag of bands
        over_frequency = _attention_weights(self.over_frequency, rows, None).view_as(class_maps)
        if padding is not None:
            over_frequency = padding.fill(over_frequency)
        over_time = _attention_weights(self.over_time, *self._row(first, padding))
        return over_frequency, over_time[..., : first.shape[2]]

    def _row(self, first: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor | None]:
        """The second step's rows of `num_frames`, and which of those are there."""
        missing = self.over_time.width - first.shape[2]
        if padding is None and not missing:
            return first, None
        if padding is None:
            mask = first.new_ones(first.shape[0], first.shape[2], dtype=torch.bool)
        else:
            mask = padding.mask
        return nn.functional.pad(first, (0, missing)), nn.functional.pad(mask, (0, missing))


class MaskedLinearAttention(LinearAttention):
    """`LinearAttention` over rows of which each batch entry has a mask of its own."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, classes) from z (batch, classes, width) and mask (batch, width)."""
        if mask is None:
            return functional.linear_attention_pool(
                z,
                self.attention.weight,
                self.attention.bias,
                self.classes.weight,
                self.classes.bias,
                self.variant,
            )
        values, scores, activation = _branches(self, z)
        return functional.attention_pool(values, scores, activation, mask=mask)


def _branches(layer: LinearAttention, z: Tensor) -> tuple[Tensor, Tensor, str | None]:
    """Values, scores and the scores' activation: linear attention as `attention_pool` takes it."""
    with torch.autocast(z.device.type, enabled=False):
        values, scores = layer.classes(z), layer.attention(z)
    if layer.variant == "paper":
        return values, scores, "sigmoid"
    return values.sigmoid(), scores, None


def _attention_weights(layer: LinearAttention, rows: Tensor, mask: Tensor | None) -> Tensor:
    values, scores, activation = _branches(layer, rows)
    return functional.frame_weights(
        "attention", values, scores, score_activation=activation, mask=mask
    )


def _blocks(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        ConvolutionBlock(widths[index], widths[index + 1], pool=_SMOOTH)
        for index in range(len(widths) - 1)
    )
