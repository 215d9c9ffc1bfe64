"""What a trained pooling does with one clip: frame probabilities and the weights it gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from milkernels import functional
from milkernels.nn import AttentionPool, AttentionStatsPool
from models.detector import Detector


@dataclass(frozen=True)
class Inside:
    """One clip inside a detector.

    Attributes:
        features: (frames, bands) log-mel, before normalisation.
        clip: (classes,) probabilities.
        frame: (output frames, classes) probabilities; None of a network without.
        attention: (output frames, classes) weights of attention pooling, of sum 1 over the clip;
            of cells, those of a frame together; None of another pooling.
        heads: (output frames, heads) weights of attention statistics; None of another pooling.
    """

    features: np.ndarray
    clip: np.ndarray
    frame: np.ndarray | None
    attention: np.ndarray | None = None
    heads: np.ndarray | None = None


def look_inside(detector: Detector, waveform: Tensor) -> Inside:
    """Run a detector on a waveform (samples,), at most a clip long, and keep its weights."""
    seen: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs)))
        for module in detector.network.modules()
        if isinstance(module, AttentionPool | AttentionStatsPool)
    ]
    try:
        with torch.no_grad():
            lengths = torch.tensor([len(waveform)])
            features, _ = detector.front_end.log_mel(waveform[None], lengths)
            output = detector(waveform[None], lengths)
            attention = heads = None
            for module, inputs in seen:
                if isinstance(module, AttentionPool):
                    attention = _attention(module, *inputs[:2])
                else:
                    heads = _heads(cast(AttentionStatsPool, module), inputs[0])
    finally:
        for hook in hooks:
            hook.remove()
    frame = None if output.frame is None else output.frame[0].numpy()
    if attention is not None and frame is not None:
        # Where cells of frames and bands are pooled, the bands of a frame follow one another.
        attention = attention.reshape(len(frame), -1, attention.shape[1]).sum(1)
    return Inside(features[0].numpy(), output.clip[0].numpy(), frame, attention, heads)


def _attention(pool: AttentionPool, x: Tensor, features: Tensor) -> np.ndarray | None:
    """Of frames, or of cells of frames and bands; None where embeddings are pooled."""
    if not pool.from_logits or x.shape[:2] != features.shape[:2]:
        return None
    weights = functional.frame_weights(
        "attention",
        x,
        pool.scorer(features).to(x.dtype),
        dim=1,
        from_logits=True,
        score_activation=pool.score_activation,
        normalize=pool.normalize,
    )
    return weights[0].numpy()


def _heads(pool: AttentionStatsPool, embedding: Tensor) -> np.ndarray:
    frames_first = embedding if pool.frame_dim == 1 else embedding.transpose(1, 2)
    by_head = frames_first[0].unflatten(1, (pool.heads, -1))
    return torch.einsum("thd,hd->th", by_head, pool.query).softmax(0).numpy()
