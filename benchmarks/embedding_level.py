"""Statistics pooling and linear attention: what embeddings and spectrograms are pooled with."""

from __future__ import annotations

from types import ModuleType

from benchmarks import eager
from benchmarks.cases import Case, Draw, Inputs, Operation, Pooling
from milkernels import functional, reference


class Statistics(Operation):
    """Weighted mean and deviation of each head's channels (GMAP)."""

    name = "attention_stats"
    arguments = ("h", "query")
    shapes = ("gmap",)
    kinds = ("logits",)

    def inputs(self, case: Case, draw: Draw) -> Inputs:
        batch, channels, heads = case.shape.batch, case.shape.classes, case.shape.heads
        query = draw.normal(heads, channels // heads, scale=0.1)
        return Inputs((draw.normal(*case.extent),), (query,), draw.normal(batch, 2 * channels))

    def kernel(self, case: Case) -> Pooling:
        return self._of(functional, case)

    def oracle(self, case: Case) -> Pooling:
        return self._of(reference, case)

    def eager(self, case: Case) -> Pooling:
        return lambda h, query: eager.attention_stats(h, query, dim=case.dim)

    @staticmethod
    def _of(module: ModuleType, case: Case) -> Pooling:
        return lambda h, query: module.attention_stats_pool(h, query, dim=case.dim)


class LinearAttention(Operation):
    """Attention by two linear layers over the last axis (two-step attention's step)."""

    name = "linear_attention"
    arguments = ("z", "att_weight", "att_bias", "cla_weight", "cla_bias")
    shapes = ("two_step",)
    layouts = ("classes_first",)
    kinds = ("logits",)

    def inputs(self, case: Case, draw: Draw) -> Inputs:
        shape, width = case.shape, case.shape.width
        rows = (shape.batch, shape.classes, shape.frames)
        layers = (
            *(draw.normal(width, width, scale=width**-0.5), draw.normal(width, scale=0.1)),
            *(draw.normal(width, width, scale=width**-0.5), draw.normal(width, scale=0.1)),
        )
        return Inputs((draw.normal(*rows, width),), layers, draw.normal(*rows))

    def kernel(self, case: Case) -> Pooling:
        return functional.linear_attention_pool

    def oracle(self, case: Case) -> Pooling:
        return reference.linear_attention_pool

    def eager(self, case: Case) -> Pooling:
        return eager.linear_attention
