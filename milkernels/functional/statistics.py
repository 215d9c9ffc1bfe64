"""Statistics pooling: weighted mean and standard deviation over frames, head by head."""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve


def attention_stats_pool(
    h: Tensor, query: Tensor, mask: Tensor | None = None, dim: int = -1, eps: float = 1e-7
) -> Tensor:
    r"""Multi-head attentive statistics, the scores not scaled. [G, eqs. 9 and 10]

    $$\mu_j = \sum_t \omega_{tj} h_{tj}, \quad
    \sigma_j = \sqrt{\sum_t \omega_{tj} (h_{tj} - \mu_j)^2}, \quad
    \omega_{tj} = \frac{\exp(v_j^\top h_{tj})}{\sum_l \exp(v_j^\top h_{lj})}$$

    One head is GMAP's single-head pooling [G, eqs. 5 to 8].

    Args:
        h: frame embeddings (batch, D, frames), or (batch, frames, D) with dim=1, in float64,
            float32, bfloat16 or float16; any real numbers. Computed in float32 at least.
        query: v, (heads, D / heads), one row per head, in any of these dtypes. Head j owns the
            channels from j · D / heads on.
        mask: (batch, frames) bool, True for a real frame. A masked frame may hold anything. A bag
            without a real frame gives 0, deviations too, and gets gradients of 0.
        dim: the frame axis of h.
        eps: floor of the variance before the root. A channel at the floor has a deviation of √eps
            and no gradient through it.

    Returns:
        (batch, 2D) in h's dtype: head by head, its means and then its deviations.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    >>> attention_stats_pool(torch.tensor([[[1.0, 3.0]]]), query=torch.zeros(1, 1))
    tensor([[2., 1.]])
    """
    dim = validation.frame_dim(dim)
    bags, channels, frames = validation.embeddings(h, dim)
    validation.head_queries(query, channels, h.device)
    validation.mask_of(mask, bags, frames, h.device, "h")
    eps = validation.variance_floor(eps)
    chosen = resolve(h.device)
    if chosen == "reference":
        return reference.attention_stats_pool(h, query, mask, dim, eps)
    return ops.statistics(h, query, None, mask, eps, dim, chosen)


def weighted_stats_pool(
    h: Tensor, scores: Tensor, mask: Tensor | None = None, dim: int = -1, eps: float = 1e-7
) -> Tensor:
    r"""Statistics under the caller's scores, for attentive statistics pooling with any scorer: as
    `attention_stats_pool` with [G, eq. 10]

    $$\omega_{tj} = \frac{\exp(s_{tj})}{\sum_l \exp(s_{lj})}$$

    Args:
        h: as in `attention_stats_pool`.
        scores: (batch, heads, frames), or (batch, frames, heads) with dim=1, in h's dtype; heads
            divides D. As many heads as channels score each channel by itself: the result then
            holds channel after channel, its mean and its deviation. A score of -inf takes its
            frame out of the head.
        mask, dim, eps: as in `attention_stats_pool`.

    Returns:
        (batch, 2D) in h's dtype: head by head, its means and then its deviations.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.

    >>> weighted_stats_pool(torch.randn(4, 64, 50), scores=torch.randn(4, 8, 50)).shape
    torch.Size([4, 128])
    """
    dim = validation.frame_dim(dim)
    bags, _, frames = validation.embeddings(h, dim)
    validation.head_scores(scores, h, dim)
    validation.mask_of(mask, bags, frames, h.device, "h")
    eps = validation.variance_floor(eps)
    chosen = resolve(h.device)
    if chosen == "reference":
        return reference.weighted_stats_pool(h, scores, mask, dim, eps)
    return ops.statistics(h, None, scores, mask, eps, dim, chosen)
