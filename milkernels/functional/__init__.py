"""One function per pooling: check the arguments, then one call of a fused operator.

Every function takes `x`, frame values as (batch, classes, frames), or (batch, frames, classes) with
`dim=1`, in float64, float32, bfloat16 or float16, and returns the bag values (batch, classes) in
x's dtype, computed in float32 at least. All of them take

- `dim`: the frame axis, -1 or 2 for (batch, classes, frames), 1 for (batch, frames, classes);
- `mask`: (batch, frames) bool, True for a real frame. A masked frame may hold anything, NaN too. A
  bag without a real frame gives 0 and gets gradients of 0;
- `from_logits`: x holds logits, and the sigmoid is part of the kernel. Prefer it for training: its
  gradient has no pole at 0.

`pool_packed` takes bags of different lengths instead, one after the other.

A weighted average lies between its smallest and its largest frame: probabilities give a
probability. Poolings that weigh by log x treat a value below 1e-7 as 1e-7 in its weight; from
logits nothing is floored. Errors are ValueError or TypeError and name the argument.

Sources:

- [W] Wang, Li and Metze, "A comparison of five multiple instance learning pooling functions for
  sound event detection with weak labeling", 2019.
- [L] Liu et al., "Power pooling", 2021.
- [M] McFee, Salamon and Bello, "Adaptive pooling operators for weakly labeled sound event
  detection", 2018.
- [Xu] Xu et al., "Large-scale weakly supervised audio classification using gated convolutional
  neural network", 2018, with the clamp of the DESED baseline system.
- [K] Kong et al., "PANNs: large-scale pretrained audio neural networks for audio pattern
  recognition", 2020.
- [V] Viola, Platt and Zhang, "Multiple instance boosting for object detection", 2005.
- [P] Pinheiro and Collobert, "From image-level to pixel-level labeling with convolutional
  networks", 2015.
- [S] Kolesnikov and Lampert, "Seed, expand and constrain: three principles for weakly-supervised
  image segmentation", 2016.
- [G] Hong et al., "Gated multi-head attention pooling for weakly labelled audio tagging" (GMAP),
  2020.
- [D] Deshmukh, Raj and Singh, "Multi-task learning for interpretable weakly labelled sound event
  detection", 2020.
"""

from milkernels.functional.frame_weights import frame_weights
from milkernels.functional.gated_fusion import gated_fusion
from milkernels.functional.linear_attention import linear_attention_pool
from milkernels.functional.log_mean_exp import log_mean_exp_pool
from milkernels.functional.maximum import max_mean_pool, max_pool
from milkernels.functional.noisy_or import noisy_or_pool
from milkernels.functional.packed import pool_packed
from milkernels.functional.pool_bce import pool_bce
from milkernels.functional.rank import rank_pool
from milkernels.functional.statistics import attention_stats_pool, weighted_stats_pool
from milkernels.functional.weighted_average import (
    attention_pool,
    auto_pool,
    exp_softmax_pool,
    linear_softmax_pool,
    mean_pool,
    power_exp_pool,
    power_pool,
)

__all__ = [
    "attention_pool",
    "attention_stats_pool",
    "auto_pool",
    "exp_softmax_pool",
    "frame_weights",
    "gated_fusion",
    "linear_attention_pool",
    "linear_softmax_pool",
    "log_mean_exp_pool",
    "max_mean_pool",
    "max_pool",
    "mean_pool",
    "noisy_or_pool",
    "pool_bce",
    "pool_packed",
    "power_exp_pool",
    "power_pool",
    "rank_pool",
    "weighted_stats_pool",
]
