"""Labels of a case, and its pooling with cross-entropy: in one pass, by the oracle, eagerly."""

from __future__ import annotations

import eager
import torch
from cases import Case
from torch.nn.functional import binary_cross_entropy

from milkernels import reference


def arguments_of(case: Case) -> tuple[str, list, dict]:
    """The name, the tensors after target and the keywords of a case."""
    name = "attention" if case.name == "class_attention" else case.name
    return name, case.tensors[1:], case.keywords


def labels_of(case: Case, soft: bool = True) -> torch.Tensor:
    shape = (case.x.shape[0], case.x.shape[3 - case.dim])
    labels = torch.rand(shape) if soft else (torch.rand(shape) < 0.3).float()
    return labels.to(case.x.device)


def run(module, case: Case, target: torch.Tensor, scale: float = 1, **options) -> list:
    """The loss and the gradients of the case's tensors, of `scale` times its sum."""
    tensors = [tensor.detach().requires_grad_() for tensor in case.tensors]
    name, _, keywords = arguments_of(case)
    loss = module.pool_bce(name, tensors[0], target, *tensors[1:], **keywords, **options)
    return [loss.detach(), *torch.autograd.grad(scale * loss.sum(), tensors)]


def truth(case: Case, target: torch.Tensor, **options) -> list:
    """What the oracle gives of the same numbers in float64."""
    options = {key: value.double() if key == "weight" else value for key, value in options.items()}
    return run(reference, case.to(torch.float64), target.double(), **options)


def in_two_steps(case: Case, target: torch.Tensor) -> list:
    """Eager PyTorch: sigmoid, the naive pooling, and the cross-entropy of float32."""
    tensors = [tensor.detach().requires_grad_() for tensor in case.tensors]
    x, *rest = [t.transpose(1, 2) if t.dim() == 3 and case.dim == 1 else t for t in tensors]
    y = getattr(eager, case.name)(x.sigmoid() if case.keywords["from_logits"] else x, *rest)
    loss = binary_cross_entropy(y.float().clamp(0, 1), target)
    return [loss.detach(), *torch.autograd.grad(loss, tensors)]
