"""Poolings of embeddings: their parameters, and a call of `milkernels.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from milkernels import functional, validation


class LinearAttention(nn.Module):
    """`functional.linear_attention_pool` with its two layers: (..., width) to (...).

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
        variant: "paper" or "code", as in `functional.linear_attention_pool`.

    Raises:
        ValueError: for another variant, and for an input of another shape.
    """

    def __init__(self, num_freqs: int, num_frames: int, variant: str = "paper") -> None:
        super().__init__()
        self.over_frequency = LinearAttention(num_freqs, variant)
        self.over_time = LinearAttention(num_frames, variant)

    def forward(self, x: Tensor) -> Tensor:
        frames, freqs = self.over_time.width, self.over_frequency.width
        if x.dim() != 4 or x.shape[2:] != (frames, freqs):
            raise ValueError(
                f"x: expected shape (batch, classes, {frames}, {freqs}), frames by frequencies, "
                f"got {tuple(x.shape)}"
            )
        return self.over_time(self.over_frequency(x))
