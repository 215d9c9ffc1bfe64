"""The logarithm of the mean exponential."""

from __future__ import annotations

import torch
from torch import Tensor

from milkernels.reference.frames import Frames


def log_mean_exp_pool(
    x: Tensor,
    sharpness: float | Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    from_logits: bool = False,
) -> Tensor:
    """y = log(Σ exp(r x_i) / n) / r; as r goes to 0, the mean. [P, eq. 6]

    Where r times the frames' range is small the quotient loses its digits: there it is its series
    in r, whose coefficients are the frames' cumulants.
    """
    values = Frames(x, dim, mask, from_logits)
    classes = values.x.shape[1]
    if not isinstance(sharpness, Tensor):
        sharpness = values.x.new_full((classes,), sharpness)
    sharpness = values.per_class(sharpness)
    if values.x.shape[-1] == 0:
        return values.restore((values.x * sharpness).sum(-1))
    low, high = values.bounds()
    some = values.valid.any(-1)
    limit = torch.finfo(values.x.dtype).eps ** 0.25
    small = ((sharpness[:, 0] * (high - low)).abs() < limit) | ~some
    r = sharpness[:, 0].expand_as(low)
    direction = torch.where(r < 0, -1.0, 1.0).to(r.dtype)
    peak = torch.where(some, torch.where(r < 0, low, high), 0)
    direct = _direct(values, torch.where(small, direction, r), peak)
    y = torch.where(small, _series(values, torch.where(small, r, 0), small), direct)
    return values.restore(values.held(y, some))


def _mean(values: Frames, terms: Tensor) -> Tensor:
    """Mean of `terms` over the real frames; 0 of none."""
    return terms.masked_fill(~values.valid, 0).sum(-1) / values.valid.sum(-1).clamp(min=1)


def _direct(values: Frames, r: Tensor, peak: Tensor) -> Tensor:
    """The formula relative to the peak, exact on both sides of exp(...) = 1/2."""
    exponent = (r[..., None] * (values.x - peak[..., None])).masked_fill(~values.valid, 0)
    below = _mean(values, exponent.expm1())
    near = below.detach() > -0.5
    ratio = _mean(values, exponent.exp())
    logarithm = torch.where(
        near, torch.where(near, below, 0).log1p(), torch.where(near, 1, ratio).log()
    )
    return peak + logarithm / r


def _series(values: Frames, r: Tensor, where: Tensor) -> Tensor:
    mean = _mean(values, values.x)
    deviation = torch.where(where[..., None], values.x - mean[..., None], 0)
    second, third, fourth = (_mean(values, deviation**power) for power in (2, 3, 4))
    cumulant = fourth - 3 * second**2
    return mean + r * (second / 2 + r * (third / 6 + r * cumulant / 24))
