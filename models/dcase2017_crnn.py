"""The convolutional and recurrent network of Wang, Li and Metze for the DCASE 2017 challenge.

Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for sound
event detection with weak labeling", 2019, section 3.1 and figure 2 (left).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from milkernels.nn import AttentionPool, build_pooling, list_poolings
from models.output import DetectorOutput, frame_mask


class Dcase2017Crnn(nn.Module):
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
    """

    frame_reduction = 4
    """Input frames per output frame."""

    def __init__(
        self,
        num_classes: int,
        pooling: str = "linear_softmax",
        mels: int = 64,
        channels: Sequence[int] = (32, 64, 128),
        gru_width: int = 100,
    ) -> None:
        super().__init__()
        if len(channels) != 3:
            raise ValueError(f"channels: expected three numbers, got {list(channels)}")
        widths = (1, *channels)
        pools = ((1, 2), (2, 2), (2, 2))
        self.blocks = nn.ModuleList(
            _Block(widths[i], widths[i + 1], pool) for i, pool in enumerate(pools)
        )
        self.gru = nn.GRU(
            channels[-1] * -(-mels // 8), gru_width, batch_first=True, bidirectional=True
        )
        self.classifier = nn.Linear(2 * gru_width, num_classes)
        scorer = {"in_features": 2 * gru_width} if pooling == "attention" else {}
        self.pool = build_pooling(pooling, num_classes, dim=1, from_logits=True, **scorer)
        if not self.pool.gives_probabilities:
            expected = ", ".join(list_poolings(probabilities=True))
            raise ValueError(f"pooling: expected one of {expected}, got {pooling!r}")
        self._initialise()
        self.blocks.to(memory_format=torch.channels_last)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> DetectorOutput:
        """Detect events.

        Args:
            features: (batch, frames, mels).
            lengths: (batch,) real frames of each clip, the others follow them; None where all are
                real. Keep it on the CPU, where the packed GRU needs it.
        """
        if lengths is not None:
            lengths = lengths.cpu()
            if bool((lengths >= features.shape[1]).all()):
                lengths = None
        # Channels last: pooling is three times as fast on a CPU, and tensor cores read it in place.
        hidden = features.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        if lengths is not None:
            hidden = _zero_padding(hidden, lengths)
        for block in self.blocks:
            hidden, lengths = block(hidden, lengths)
        hidden = hidden.transpose(1, 2).flatten(2)
        hidden = self._recur(hidden, lengths)
        # The pooling's arithmetic and its result stay in float32 under autocast.
        logits = self.classifier(hidden).float()
        mask = None if lengths is None else frame_mask(lengths, logits.shape[1], logits.device)
        inputs = (logits, hidden) if isinstance(self.pool, AttentionPool) else (logits,)
        clip = self.pool(*inputs, mask=mask)
        return DetectorOutput(clip, logits.sigmoid(), mask, self.pool.penalty())

    def _recur(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return self.gru(hidden)[0]
        # A packed sequence has at least one frame; the mask still leaves out an empty clip.
        packed = pack_padded_sequence(
            hidden, lengths.clamp(min=1), batch_first=True, enforce_sorted=False
        )
        output, _ = self.gru(packed)
        return pad_packed_sequence(output, batch_first=True, total_length=hidden.shape[1])[0]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.gru.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.detach().chunk(3):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)


class _Block(nn.Module):
    """Convolution, max pooling, ReLU; an odd last frame or band is pooled alone."""

    def __init__(self, in_channels: int, out_channels: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=5, padding=2)
        self.pool = pool

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = self.conv(x)
        if lengths is not None:
            x = _zero_padding(x, lengths)
            lengths = (lengths + self.pool[0] - 1) // self.pool[0]
        # ReLU and max commute: pooling first leaves a quarter of the values to it.
        return functional.relu(functional.max_pool2d(x, self.pool, ceil_mode=True)), lengths


def _zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    mask = frame_mask(lengths, x.shape[2], x.device)
    return x.masked_fill(~mask[:, None, :, None], 0)
