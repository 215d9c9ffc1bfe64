"""Attention over a row by two linear layers: what two-step attention pooling is made of."""

from __future__ import annotations

from torch import Tensor

from milkernels import ops, reference, validation
from milkernels.backends import resolve

#: Positions of a row up to which Triton's kernels, which compute the layers again for each block of
#: their gradients, do not cost more than the traffic that they save.
_WIDEST_TRITON = 512


def linear_attention_pool(
    z: Tensor,
    att_weight: Tensor,
    att_bias: Tensor,
    cla_weight: Tensor,
    cla_bias: Tensor,
    variant: str = "paper",
) -> Tensor:
    r"""Attention over the last axis by two linear layers, the layers included.

    `variant="paper"` [D, eq. 8-11]. Weights lie within a factor e of each other, and y may be any
    real number: the class branch is linear. Use it as a logit, not as a probability.

    $$y = \sum_l \mathrm{softmax}_l(\sigma(z W_a^\top + b_a)) \, (z W_c^\top + b_c)$$

    `variant="code"`, as the authors' program does: y is in [0, 1].

    $$y = \sum_l \mathrm{softmax}_l(z W_a^\top + b_a) \, \sigma(z W_c^\top + b_c)$$

    `nn.TwoStepAttention` applies it over frequency and then over time.

    Args:
        z: (..., L), float64, float32, bfloat16 or float16, of any strides (rows that are not
            contiguous are copied).
        att_weight, cla_weight: (L, L), outputs by inputs, as in `torch.nn.Linear`. Each may have a
            floating dtype of its own.
        att_bias, cla_bias: (L,).
        variant: "paper" or "code".

    Returns:
        (...) in z's dtype, computed in float32 at least. Neither layer's output (..., L) is ever
        written to memory, forward or backward. On a GPU float32 is multiplied in TensorFloat-32
        where `torch.backends.cuda.matmul.fp32_precision` allows it; where not, by three such
        products of parts that together have float32's digits (infinite values then give NaN). Rows
        of more than 512 positions take plain PyTorch, which does write both outputs.

    Raises:
        ValueError, TypeError: naming the argument that is wrong.

    >>> layer = torch.zeros(64, 64), torch.zeros(64)
    >>> linear_attention_pool(torch.randn(4, 41, 311, 64), *layer, *layer, variant="code").shape
    torch.Size([4, 41, 311])
    """
    validation.floating("z", z)
    if z.dim() == 0:
        raise ValueError("z: expected at least 1 dimension (..., L), got shape ()")
    width = z.shape[-1]
    for name, parameter, shape in (
        ("att_weight", att_weight, (width, width)),
        ("att_bias", att_bias, (width,)),
        ("cla_weight", cla_weight, (width, width)),
        ("cla_bias", cla_bias, (width,)),
    ):
        validation.layer_parameter(name, parameter, shape, z)
    validation.one_of("variant", variant, ("paper", "code"))
    arguments = (z, att_weight, att_bias, cla_weight, cla_bias, variant)
    chosen = resolve(z.device)
    if chosen == "reference" or (chosen == "triton" and width > _WIDEST_TRITON):
        return reference.linear_attention_pool(*arguments)
    return ops.linear_attention(*arguments, chosen)
