"""Strides of every kind: the right numbers, and no copy for the two layouts."""

import pytest
import torch
from cases import POOLINGS, PROBABILITIES, assert_close, make_case
from loss_cases import labels_of
from loss_cases import run as run_with_loss
from packed_cases import make_packed

from milkernels import functional
from milkernels.family import POOLING_PARAMETERS

VIEWS = {
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "bags last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "every second frame": lambda x: torch.stack([x, -x], -1).flatten(2)[..., ::2],
    "every second class": lambda x: torch.stack([x, -x], 2).flatten(1, 2)[:, ::2],
    "inside a larger tensor": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[:, 1:-4, 3:-2],
    "backwards bags": lambda x: x.flip(0).contiguous().flip(0),
}

#: Of parameters with one number a class.
PARAMETER_VIEWS = {
    "expanded": lambda parameter: parameter[:1].expand(len(parameter)),
    "every second": lambda parameter: torch.stack([parameter, -parameter], 1).flatten()[::2],
}
WITH_PARAMETERS = [
    name
    for name, parameters in POOLING_PARAMETERS.items()
    if not {"power", "alpha", "sharpness"}.isdisjoint(parameters)
]


def padded(name, device, frames=19):
    case = make_case(name, 2, 6, frames, device=device)
    return case, lambda: case.run(functional)


def packed(name, device, frames=40):
    case = make_packed(name, (5, 0, frames), 6, device=device)
    return case, lambda: case.run(functional)


def with_loss(name, device, frames=19):
    case = make_case(name, 2, 6, frames, device=device)
    target = labels_of(case)
    return case, lambda: run_with_loss(functional, case, target)


@pytest.mark.parametrize("make", [padded, packed, with_loss])
@pytest.mark.parametrize("view", PARAMETER_VIEWS.values(), ids=PARAMETER_VIEWS.keys())
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_parameters_of_any_strides_give_the_same_numbers(kernel_backend, device, name, view, make):
    case, run = make(name, device)
    viewed = [view(tensor) if tensor.dim() == 1 else tensor for tensor in case.tensors]
    case.tensors = [tensor.contiguous() for tensor in viewed]
    plain = run()
    case.tensors = viewed
    assert all(torch.equal(one, other) for one, other in zip(run(), plain, strict=True))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("name", POOLINGS)
def test_any_strides_give_the_same_numbers(kernel_backend, device, name, view):
    case = make_case(name, 3, 6, 19, device=device)
    plain = case.run(functional)
    case.tensors = [view(t) if t.dim() == 3 else t for t in case.tensors]
    assert_close(case.run(functional), plain, relative=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_expanded_frames_give_the_same_numbers(kernel_backend, device, name):
    case = make_case(name, 2, 4, 11, device=device)
    case.tensors[0] = case.x[:, :1].expand(2, 4, 11)
    expanded = case.run(functional)
    case.tensors[0] = case.x.contiguous()
    assert_close(expanded, case.run(functional), relative=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_both_layouts_agree(kernel_backend, device, name):
    case = make_case(name, 3, 6, 50, device=device)
    first = case.run(functional)
    case.tensors = [t.transpose(1, 2).contiguous() if t.dim() == 3 else t for t in case.tensors]
    case.keywords["dim"] = 1
    second = [t.transpose(1, 2) if t.dim() == 3 else t for t in case.run(functional)]
    assert_close(second, first, relative=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_summed_result_hands_back_an_expanded_gradient(kernel_backend, device, name):
    """`.sum()` sends a gradient of stride 0."""
    case = make_case(name, 2, 4, 11, device=device)
    tensors = [tensor.requires_grad_() for tensor in case.tensors]
    y = case.function(functional)(*tensors, **case.keywords)
    summed = torch.autograd.grad(y.sum(), tensors, retain_graph=True)
    ones = torch.autograd.grad(y, tensors, torch.ones_like(y))
    assert all(torch.equal(one, other) for one, other in zip(summed, ones, strict=True))


@pytest.mark.parametrize("name", POOLINGS)
def test_a_mask_of_any_strides(kernel_backend, device, name):
    case = make_case(name, 3, 6, 19, masked=True, device=device)
    plain = case.run(functional)
    case.keywords["mask"] = case.keywords["mask"].t().contiguous().t()
    for one, other in zip(case.run(functional), plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("view", ["plain", "transposed"])
def test_gradients_have_their_tensors_layout(kernel_backend, device, view):
    x = torch.rand(2, 5, 7, device=device)
    x = (VIEWS["transposed"](x) if view == "transposed" else x).requires_grad_()
    y = functional.linear_softmax_pool(x)
    assert torch.autograd.grad(y.sum(), x)[0].stride() == x.stride()


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_two_layouts_are_not_copied(kernel_backend, device, dim, monkeypatch):
    x = torch.rand((2, 300, 5) if dim == 1 else (2, 5, 300), device=device, requires_grad=True)
    copies = []
    for method in ("contiguous", "clone", "copy_"):
        original = getattr(torch.Tensor, method)

        def spy(tensor, *arguments, original=original, method=method, **keywords):
            result = original(tensor, *arguments, **keywords)
            if tensor.numel() == x.numel() and result.data_ptr() != tensor.data_ptr():
                copies.append(method)
            return result

        monkeypatch.setattr(torch.Tensor, method, spy)
    functional.power_pool(x, torch.ones(5, device=device), dim=dim).sum().backward()
    assert copies == []


def negated_lazily(tensor):
    """The same numbers as an imaginary part of a conjugate, whose memory holds their negatives."""
    return torch.complex(-tensor, -tensor).conj().imag


@pytest.mark.parametrize("frames", [1, 19])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((make, name) for make in (padded, packed) for name in POOLINGS),
        *((with_loss, name) for name in PROBABILITIES),
    ],
)
def test_lazily_negated_tensors_keep_their_sign(kernel_backend, device, name, make, frames):
    case, run = make(name, device, frames)
    plain = run()
    case.tensors = [negated_lazily(tensor) for tensor in case.tensors]
    assert_close(run(), plain, relative=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 1), (1, 1)])
def test_so_do_lazily_negated_gradients(kernel_backend, device, shape):
    x = torch.rand(*shape, 7, device=device, requires_grad=True)
    gradient = torch.rand(shape, device=device)
    y = functional.exp_softmax_pool(x)
    (plain,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
    (lazy,) = torch.autograd.grad(y, x, negated_lazily(gradient))
    assert torch.equal(lazy, plain)
