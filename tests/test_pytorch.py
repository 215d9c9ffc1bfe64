"""Poolings inside what PyTorch builds around modules: export, checkpointing, distribution."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from milkernels import functional
from milkernels.family import SHORT_BAG
from milkernels.nn import build_pooling, list_poolings
from milkernels.ops.library import kernels

WITHOUT_SCORER = [name for name in list_poolings(probabilities=True) if name != "attention"]


class Head(nn.Module):
    """A classifier of frames and a pooling, (batch, frames, 6) to (batch, 3)."""

    def __init__(self, pooling: str = "linear_softmax") -> None:
        super().__init__()
        self.classifier = nn.Linear(6, 3)
        self.pool = build_pooling(pooling, 3, dim=1, from_logits=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.pool(self.classifier(features))


def gradients(head: nn.Module, y: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(head.parameters())))


@pytest.mark.parametrize("name", WITHOUT_SCORER)
def test_export_keeps_batch_and_frames_free(name):
    """Rank pooling's up to the length whose ranks fit 16 bits, if it was exported from one."""
    head = Head(name)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("frames", max=SHORT_BAG)}
    exported = torch.export.export(head, (torch.randn(2, 20, 6),), dynamic_shapes=(free,))
    other = torch.randn(5, 33, 6)
    assert torch.equal(exported.module()(other), head(other))


@pytest.mark.parametrize("name", WITHOUT_SCORER)
def test_activation_checkpointing_gives_the_same_gradients(name):
    head, features = Head(name), torch.randn(4, 20, 6)
    again = checkpoint(head, features, use_reentrant=False)
    for one, other in zip(gradients(head, again), gradients(head, head(features)), strict=True):
        assert torch.equal(one, other)


def test_selective_checkpointing_may_keep_the_pooling(monkeypatch):
    """Told to save its operator's output, the recomputation runs everything else."""
    operator = torch.ops.milkernels.weighted_average.default
    runs = []
    module = kernels("cpp", "weighted_average")
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *args: runs.append(1) or forward(*args))
    head, features = Head(), torch.randn(4, 20, 6)
    kept = checkpoint(
        head,
        features,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts([operator]),
    )
    ours = gradients(head, kept)
    assert len(runs) == 1
    for one, other in zip(ours, gradients(head, head(features)), strict=True):
        assert torch.equal(one, other)


def test_data_parallel_training_averages_learned_powers():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        head, features = Head("power"), torch.randn(4, 20, 6)
        nn.parallel.DistributedDataParallel(head)(features).square().sum().backward()
        shared = [parameter.grad for parameter in head.parameters()]
        for one, other in zip(shared, gradients(head, head(features)), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.distributed.destroy_process_group()


POOLED = {
    "a pooling": functional.mean_pool,
    "a loss": lambda x: functional.pool_bce("mean", x, torch.ones(2, 3)),
    "packed bags": lambda x: functional.pool_packed("mean", x[0], torch.tensor([0, 3])),
    "statistics": lambda x: functional.weighted_stats_pool(x, torch.rand(2, 3, 5)),
}


@pytest.mark.parametrize("name", POOLED)
def test_a_tangent_is_refused_and_not_dropped(name):
    x = torch.rand(2, 3, 5)
    with forward_ad.dual_level():
        assert POOLED[name](x).isfinite().all()
        with pytest.raises(NotImplementedError, match="forward-mode AD"):
            POOLED[name](forward_ad.make_dual(x, torch.ones_like(x)))
