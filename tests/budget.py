"""The error budget that every kernel is held to, and the eager forms that it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import eager
import torch
from cases import Case
from torch import Tensor
from torch.nn.functional import pad

from milkernels import functional, reference


def truth_of(case: Case) -> list[Tensor]:
    """What the oracle gives of the same numbers in float64."""
    return case.to(torch.float64).run(reference)


def cases_of(backend: str, device: str) -> int:
    """How many cases to look for errors in: the interpreter is slow."""
    return 3 if backend == "triton" and device == "cpu" else 8


def together(results: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Several cases' tensors as those of one case: flat, if there are several."""
    first, *more = results
    if not more:
        return list(first)
    by_tensor = zip(first, *more, strict=True)
    return [torch.cat([tensor.flatten() for tensor in tensors]) for tensors in by_tensor]


def assert_within_budget(case: Case, naive: Callable[..., Tensor], *more: Case) -> None:
    """A case's kernels against its oracle and `naive`, its eager form. With more cases the errors
    of all count together: in a few numbers eager PyTorch may be exact by luck."""
    cases = (case, *more)
    ours = together(each.run(functional) for each in cases)
    assert all(tensor.dtype == case.x.dtype for tensor in ours)
    theirs = together(each.run_function(naive) for each in cases)
    assert_errors_within_budget(ours, theirs, together(map(truth_of, cases)))


def assert_errors_within_budget(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], truth: Sequence[Tensor]
) -> None:
    """At most twice eager PyTorch's own largest error, plus a rounding of the largest value. What
    is smaller than float32's normal numbers may be 0."""
    for index, (one, other, true) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert one.shape == true.shape
        if one.numel() == 0:
            continue
        error = (one.double() - true).abs().max().item()
        budget = 2 * (other.double() - true).abs().max().item()
        budget += torch.finfo(one.dtype).eps * true.abs().max().item()
        budget += torch.finfo(torch.float32).smallest_normal
        assert error <= budget, f"tensor {index}: error {error:.2e} of a budget of {budget:.2e}"


def naive_form(
    name: str, dim: int, from_logits: bool, mask: Tensor | None = None, **keywords: object
) -> Callable[..., Tensor]:
    """The eager form, with a sigmoid and a transpose where the case needs them; with a mask the
    form of each bag's real frames alone, and 0 of none."""
    form = partial(getattr(eager, name), **keywords)

    def pool(x: Tensor, *rest: Tensor) -> Tensor:
        if from_logits:
            x = x.sigmoid()
        if dim == 1:
            x, rest = x.mT, [t.mT if t.dim() == 3 else t for t in rest]
        if mask is None:
            return form(x, *rest)
        no_bags = nothing(*(t[:0, :, :0] if t.dim() == 3 else t for t in (x, *rest)))
        return torch.cat([no_bags, *(alone(bag, real, x, *rest) for bag, real in enumerate(mask))])

    def alone(bag: int, real: Tensor, *tensors: Tensor) -> Tensor:
        bags = [t[bag : bag + 1, :, real] if t.dim() == 3 else t for t in tensors]
        return form(*bags) if real.any() else nothing(*bags)

    def nothing(*tensors: Tensor) -> Tensor:
        one_frame = [pad(t.detach(), (0, 1)) if t.dim() == 3 else t.detach() for t in tensors]
        return torch.zeros_like(form(*one_frame)) + sum(t[..., :0].sum() for t in tensors)

    return pool
