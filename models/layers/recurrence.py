"""Recurrent layers over the real frames of each clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers.padding import Padding


class BidirectionalGru(nn.GRU):
    """Bidirectional GRU: (batch, frames, in_width) to (batch, frames, 2 · width).

    Args:
        in_width: of the frames.
        width: units per direction.
        layers: how many.
    """

    def __init__(self, in_width: int, width: int, layers: int = 1) -> None:
        super().__init__(in_width, width, layers, batch_first=True, bidirectional=True)

    def forward(self, hidden: Any, padding: Any = None) -> Any:
        """(batch, frames, 2 · width) of (batch, frames, in_width) and a `Padding`, or None."""
        if padding is None:
            return super().forward(hidden)[0]
        # A packed sequence has at least one frame; the mask still leaves out an empty clip.
        packed = pack_padded_sequence(
            hidden, padding.lengths.clamp(min=1), batch_first=True, enforce_sorted=False
        )
        output, _ = super().forward(packed)
        return pad_packed_sequence(output, batch_first=True, total_length=padding.frames)[0]


class GatedBidirectionalGru(nn.Module):
    """Two bidirectional GRUs, one with linear candidates, times one with sigmoid candidates.

    Xu et al., 2018, as their program has it: h = z h + (1 - z) n with n = a(W x + U (r h) + b), the
    reset gate before the matrix product and one bias for each gate, which is not what PyTorch's GRU
    computes.

    Args:
        in_width: of the frames.
        width: units per direction.
    """

    # The groups are linear forwards, linear backwards, gate forwards, gate backwards.
    GROUPS = 4

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight_input = nn.Parameter(torch.empty(self.GROUPS, in_width, 3 * width))
        self.weight_hidden = nn.Parameter(torch.empty(self.GROUPS, width, 3 * width))
        self.bias = nn.Parameter(torch.zeros(self.GROUPS, 1, 3 * width))
        for inputs, recurrent in zip(self.weight_input, self.weight_hidden, strict=True):
            nn.init.xavier_uniform_(inputs)
            for gate in recurrent.detach().chunk(3, 1):
                nn.init.orthogonal_(gate)

    def forward(self, hidden: Tensor, padding: Padding | None) -> Tensor:
        # Unbounded candidates want the range and the digits of float32.
        with torch.autocast(hidden.device.type, enabled=False):
            inputs = hidden.float().transpose(0, 1)[:, None]  # (frames, 1, batch, in_width)
            inputs = torch.matmul(inputs, self.weight_input) + self.bias
            states = self._recur(_flip_backwards(inputs), padding)
            states = _flip_backwards(states).permute(2, 0, 1, 3)  # (batch, frames, groups, width)
            linear, gate = states.flatten(2).chunk(2, -1)
            output = linear * gate
        return output if padding is None else output.masked_fill(~padding.mask[..., None], 0)

    def _recur(self, inputs: Tensor, padding: Padding | None) -> Tensor:
        """(frames, groups, batch, width) from each group's inputs in its own order of frames."""
        gates, candidates = inputs.split([2 * self.width, self.width], -1)
        to_gates, to_candidate = self.weight_hidden.split([2 * self.width, self.width], -1)
        state = inputs.new_zeros(*inputs.shape[1:3], self.width)
        real = None
        if padding is not None:
            mask = padding.mask.t()[:, None, :, None].expand(-1, self.GROUPS, -1, 1)
            real = _flip_backwards(mask)
        states = []
        # Taken apart once: the gradient of taking one step at a time is as large as all steps.
        for step, (gate, candidate) in enumerate(
            zip(gates.unbind(), candidates.unbind(), strict=True)
        ):
            update, reset = torch.baddbmm(gate, state, to_gates).sigmoid().chunk(2, -1)
            linear, gating = torch.baddbmm(candidate, reset * state, to_candidate).chunk(2)
            after = torch.lerp(torch.cat([linear, gating.sigmoid()]), state, update)
            state = after if real is None else torch.where(real[step], after, state)
            states.append(state)
        return torch.stack(states)


def _flip_backwards(sequence: Tensor) -> Tensor:
    """(frames, groups, ...) with the frames of the backward groups in reverse."""
    forwards, backwards = sequence[:, 0::2], sequence[:, 1::2].flip(0)
    return torch.stack([forwards, backwards], 2).flatten(1, 2)
