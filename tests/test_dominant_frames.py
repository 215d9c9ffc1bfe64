"""A frame beside which the others weigh nothing is the bag value, to the last bit.

Learned weights' gradients multiply x - y: what rounding would leave of it, near x = 100 as much as
1e-5, becomes a gradient where there is none.
"""

import pytest
import torch
from cases import Case

from milkernels import functional

CLASSES = 20

#: Frames in one tile or group of vectors; in several; in several segments, which are short in
#: Triton's interpreter.
CPP_FRAMES = {"tile": 33, "tiles": 900, "segments": 40_000}
TRITON_FRAMES = {"tile": 33, "tiles": 100, "segments": 300}

WEIGHTED = ("exp_softmax", "auto", "power", "power_exp", "attention")


def dominated(name: str, frames: int, device: str) -> tuple[Case, torch.Tensor]:
    """A case and its dominant frames (bags, classes), beside which all of the others vanish."""
    where = torch.randint(frames, (2, CLASSES, 1))
    parameters = torch.linspace(20, 30, CLASSES)
    if name in ("power", "power_exp"):
        x = 0.1 * torch.rand(2, CLASSES, frames)
        top = 0.8 + 0.1 * torch.rand(2, CLASSES, 1)
    else:
        x = 90 + 10 * torch.rand(2, CLASSES, frames)
        top = 140 + torch.rand(2, CLASSES, 1)
    rest = {"power": [parameters], "auto": [parameters], "power_exp": [parameters, parameters / 10]}
    extra = rest.get(name, [])
    if name == "attention":
        extra = [torch.randn(x.shape).scatter(2, where, 40.0)]
        top = 100 + torch.randn(2, CLASSES, 1)
    tensors = [x.scatter(2, where, top), *extra]
    return Case(name, [tensor.to(device) for tensor in tensors]), top[..., 0].to(device)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("size", CPP_FRAMES)
@pytest.mark.parametrize("name", WEIGHTED)
def test_the_bag_value_is_the_dominant_frame(
    kernel_backend, device, short_segments, name, size, dim, masked
):
    frames = CPP_FRAMES[size]
    if kernel_backend == "triton":
        frames = TRITON_FRAMES[size]
    case, top = dominated(name, frames, device)
    if masked:
        # Of all of them, so that the first group of frames that counts is partly masked.
        mask = (case.x == top[..., None]).any(1)
        mask[:, frames // 2 :] = True
        case.keywords["mask"] = mask
    if dim == 1:
        case.tensors = [t.mT.contiguous() if t.dim() == 3 else t for t in case.tensors]
        case.keywords["dim"] = 1
    y, *gradients = case.run(functional)
    assert torch.equal(y, top)
    if name == "attention":
        assert (gradients[1].abs() < 1e-12).all()
