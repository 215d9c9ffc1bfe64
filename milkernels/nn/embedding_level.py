"""Poolings of frame embeddings into one embedding for each bag."""

from __future__ import annotations

from torch import Tensor, nn

from milkernels import functional, validation


class AttentionStatsPool(nn.Module):
    """`milkernels.functional.attention_stats_pool` with a learned query for each head.

    The query starts as the weight of a linear layer would: uniform in ±1 / √(dim / heads).

    Args:
        dim: width D of the embeddings.
        heads: how many, each over D / heads channels of its own.
        frame_dim: the frame axis, -1 or 2 for (batch, D, frames), 1 for (batch, frames, D).
        eps: floor of the variance.

    >>> AttentionStatsPool(dim=64, heads=8)(torch.randn(4, 64, 50)).shape
    torch.Size([4, 128])
    """

    def __init__(self, dim: int, heads: int = 1, frame_dim: int = -1, eps: float = 1e-7) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: expected at least 1 channel, got {dim}")
        if heads < 1 or dim % heads:
            raise ValueError(f"heads: expected a divisor of dim = {dim}, got {heads}")
        if isinstance(frame_dim, (bool, float)) or frame_dim not in (-1, -2, 1, 2):
            raise ValueError(
                "frame_dim: expected -1 or 2 for (batch, dim, frames), 1 for (batch, frames, dim), "
                f"got {frame_dim!r}"
            )
        self.dim = dim
        self.heads = heads
        self.frame_dim = frame_dim
        self.eps = eps
        self.query = nn.Parameter(nn.Linear(dim // heads, heads, bias=False).weight.detach())

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, 2 · dim): head by head, its means and then its deviations."""
        validation.embedding_channels(h, self.dim, self.frame_dim)
        return functional.attention_stats_pool(h, self.query, mask, self.frame_dim, self.eps)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}, frame_dim={self.frame_dim}, eps={self.eps}"


class GatedFusion(nn.Module):
    """`milkernels.functional.gated_fusion` with a learned layer for the gate, which starts as a
    linear layer.

    Args:
        dim: width of the embeddings (batch, dim) that it takes and gives.

    >>> GatedFusion(dim=64)(torch.randn(4, 64)).shape
    torch.Size([4, 64])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: expected at least 1 channel, got {dim}")
        self.gate = nn.Linear(dim, dim)

    def forward(self, c: Tensor) -> Tensor:
        """(batch, dim)."""
        return functional.gated_fusion(c, self.gate.weight, self.gate.bias)


class GMAP(nn.Module):
    """Gated multi-head attention pooling: `AttentionStatsPool`, whose heads' statistics are then
    fused by a `GatedFusion` of width 2 · dim (Hong et al., 2020, eqs. 9 to 11).

    Args:
        dim: width D of the embeddings.
        heads: how many; the paper's best model has 4.
        frame_dim, eps: as in `AttentionStatsPool`.

    >>> GMAP(dim=64, heads=4, frame_dim=1)(torch.randn(4, 50, 64)).shape
    torch.Size([4, 128])
    """

    def __init__(self, dim: int, heads: int = 4, frame_dim: int = -1, eps: float = 1e-7) -> None:
        super().__init__()
        self.pool = AttentionStatsPool(dim, heads, frame_dim, eps)
        self.fusion = GatedFusion(2 * dim)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, 2 · dim)."""
        return self.fusion(self.pool(h, mask))


class LinearAttention(nn.Module):
    """`milkernels.functional.linear_attention_pool` with its two layers: (..., width) to (...).

    The layers start as `nn.Linear` does.
    """

    def __init__(self, width: int, variant: str = "paper") -> None:
        super().__init__()
        validation.one_of("variant", variant, ("paper", "code"))
        self.width = width
        self.variant = variant
        self.attention = nn.Linear(width, width)
        self.classes = nn.Linear(width, width)

    def forward(self, z: Tensor) -> Tensor:
        return functional.linear_attention_pool(
            z,
            self.attention.weight,
            self.attention.bias,
            self.classes.weight,
            self.classes.bias,
            self.variant,
        )

    def extra_repr(self) -> str:
        return f"width={self.width}, variant={self.variant!r}"


class TwoStepAttention(nn.Module):
    """Attention over frequency, then over time, each by two linear layers of its own (2APAE).

    Takes the class maps x (batch, classes, frames, frequencies) and returns (batch, classes). The
    first step alone, `over_frequency(x)`, gives the classes' values at each frame (batch, classes,
    frames); `over_time` pools those.

    `variant="code"`, the authors' program, returns probabilities. `variant="paper"` returns the
    formula's own value, which is not in (0, 1) although the paper says so, because its class branch
    is linear: it is a logit, to be given a sigmoid by the model around it, or left to
    `binary_cross_entropy_with_logits`.

    The layers' sizes are those of the input: another number of frames than `num_frames` needs other
    weights, and is refused. Equation 12 names the first step's weights in the second; the sizes
    rule it out, and the second step has its own.

    Source: Deshmukh, Raj and Singh, "Multi-task learning for interpretable weakly labelled sound
    event detection", 2020, eq. 8-14.

    Args:
        num_freqs: frequency bins of the input.
        num_frames: frames of the input.
        variant: "paper" or "code", as in `milkernels.functional.linear_attention_pool`.

    Raises:
        ValueError: for another variant, and for an input of another shape.

    >>> pool = TwoStepAttention(num_freqs=64, num_frames=311, variant="code")
    >>> pool(torch.randn(4, 41, 311, 64)).shape
    torch.Size([4, 41])
    """

    def __init__(self, num_freqs: int, num_frames: int, variant: str = "paper") -> None:
        super().__init__()
        self.over_frequency = LinearAttention(num_freqs, variant)
        self.over_time = LinearAttention(num_frames, variant)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, classes)."""
        frames, freqs = self.over_time.width, self.over_frequency.width
        if x.dim() != 4 or x.shape[2:] != (frames, freqs):
            raise ValueError(
                f"x: expected shape (batch, classes, {frames}, {freqs}), frames by frequencies, "
                f"got {tuple(x.shape)}"
            )
        return self.over_time(self.over_frequency(x))
