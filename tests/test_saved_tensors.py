"""Hooks of saved tensors, as those that offload to another memory, may give other strides back."""

import pytest
import torch
from cases import POOLINGS, assert_close, make_case

from milkernels import functional

HOOKS = {
    "all contiguous": lambda tensor: tensor.contiguous().clone(),
    "frames alone contiguous": lambda tensor: (
        tensor.contiguous().clone() if tensor.dim() == 3 and tensor.is_floating_point() else tensor
    ),
    "gaps": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0],
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_are_those_without_hooks(name, hook):
    case = make_case(name, 3, 5, 40, from_logits=True)
    case.tensors = [t.mT.contiguous().mT if t.dim() == 3 else t for t in case.tensors]
    tensors = [tensor.requires_grad_() for tensor in case.tensors]

    def gradients(unpack):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            y = case.function(functional)(*tensors, **case.keywords)
        return torch.autograd.grad(y.sum(), tensors)

    expected = gradients(lambda tensor: tensor)
    assert_close(gradients(HOOKS[hook]), expected, relative=2e-6)
