"""Blocks of convolutions and a pooling, in which a clip's surroundings are zeros.

Maps are (batch, channels, frames, bands). Their padded frames are zeros between layers, as what
lies beyond the edge is to a convolution, and count neither in batch statistics nor in pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from models.layers.padding import Padding

Size = tuple[int, int]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the real frames."""

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        if padding is None or not self.training or len(padding.real) == 0:
            return super().forward(maps) if maps.shape[0] else maps
        batch, channels, frames, bands = maps.shape
        rows = maps.permute(0, 2, 3, 1).reshape(batch * frames, bands, channels)
        kept = rows.index_select(0, padding.real)[None].permute(0, 3, 1, 2)
        normalised = super().forward(kept).permute(0, 2, 3, 1).squeeze(0)
        rows = rows.new_zeros(rows.shape, dtype=normalised.dtype)
        rows = rows.index_copy(0, padding.real, normalised)
        return rows.reshape(batch, frames, bands, channels).permute(0, 3, 1, 2)


class ConvolutionLayer(nn.Module):
    """Convolution that keeps the size, batch normalisation if wanted, non-linearity if any.

    Args:
        in_channels, out_channels: maps.
        kernel: frames and bands, odd.
        activation: "relu", "glu" (half of twice as many maps, times the other half's sigmoid; Xu et
            al., 2018, eq. 2) or None.
        batch_norm: after the convolution.
        bias: of the convolution.
        dilation: steps between the kernel's taps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        activation: Literal["relu", "glu"] | None = "relu",
        batch_norm: bool = True,
        bias: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        width = 2 * out_channels if activation == "glu" else out_channels
        self.conv = nn.Conv2d(
            in_channels,
            width,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            bias=bias,
        )
        self.norm = BatchNorm(width) if batch_norm else None
        self.activation = activation

    def forward(self, maps: Tensor, padding: Padding | None) -> Tensor:
        maps = self.conv(maps)
        if self.norm is not None:
            maps = self.norm(maps, padding)
        if self.activation == "relu":
            maps = functional.relu(maps)
        elif self.activation == "glu":
            maps = functional.glu(maps, dim=1)
        return maps if padding is None else padding.fill(maps)


@dataclass(frozen=True)
class Pool:
    """How a block makes its maps smaller, or smoother.

    Attributes:
        kind: "max" or "average" of `size` frames and bands, where an incomplete last window is
            pooled alone; "smooth", the mean of 3 × 3 with the size kept and zeros beyond the edge.
        size: frames and bands of a window.
    """

    kind: Literal["max", "average", "smooth"]
    size: Size = (1, 1)


class ConvolutionBlock(nn.Module):
    """Some convolutional layers and a pooling.

    Args:
        in_channels, out_channels: maps.
        layers: how many.
        pool: after them; None for none.
        options: of each `ConvolutionLayer`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int = 2,
        pool: Pool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        stack = [
            ConvolutionLayer(widths[index], widths[index + 1], **options) for index in range(layers)
        ]
        self.layers = nn.ModuleList(stack)
        self.pool = pool
        # ReLU and max commute: pooling first leaves a fraction of the values to it.
        last = stack[-1]
        self.relu_after_pool = pool is not None and pool.kind == "max" and last.activation == "relu"
        if self.relu_after_pool:
            last.activation = None

    @property
    def size(self) -> Size:
        """Frames and bands that become one."""
        return (1, 1) if self.pool is None else self.pool.size

    def forward(self, maps: Tensor, padding: Padding | None) -> tuple[Tensor, Padding | None]:
        """Pooled maps and what is padding in them."""
        for layer in self.layers:
            maps = layer(maps, padding)
        if self.pool is None:
            return maps, padding
        maps, padding = _POOLS[self.pool.kind](maps, padding, self.pool.size, self.relu_after_pool)
        return functional.relu(maps) if self.relu_after_pool else maps, padding


def reduction(blocks: Sequence[ConvolutionBlock]) -> Size:
    """Input frames, and bands, for each one that the blocks leave."""
    frames = bands = 1
    for block in blocks:
        frames, bands = frames * block.size[0], bands * block.size[1]
    return frames, bands


def _max_pool(
    maps: Tensor, padding: Padding | None, size: Size, then_relu: bool
) -> tuple[Tensor, Padding | None]:
    # Before a ReLU the zeros of padded frames do not outweigh what it would let through.
    mixes = size[0] > 1 and not then_relu
    if padding is not None and mixes:
        maps = padding.fill(maps, -float("inf"))
    maps = functional.max_pool2d(maps, size, ceil_mode=True)
    if padding is not None:
        padding = padding.pooled(size[0])
        maps = padding.fill(maps) if mixes else maps
    return maps, padding


def _average_pool(
    maps: Tensor, padding: Padding | None, size: Size, then_relu: bool
) -> tuple[Tensor, Padding | None]:
    maps = functional.avg_pool2d(maps, size, ceil_mode=True)
    if padding is None:
        return maps, None
    if size[0] > 1:
        real = padding.mask[:, None, :, None].to(maps.dtype)
        share = functional.avg_pool2d(real, (size[0], 1), ceil_mode=True)
        maps = maps / share.clamp(min=0.5 / size[0])
    return maps, padding.pooled(size[0])


def _smooth(
    maps: Tensor, padding: Padding | None, size: Size, then_relu: bool
) -> tuple[Tensor, Padding | None]:
    maps = functional.avg_pool2d(maps, kernel_size=3, stride=1, padding=1)
    return maps if padding is None else padding.fill(maps), padding


_POOLS = {"max": _max_pool, "average": _average_pool, "smooth": _smooth}
