"""The poolings with inputs that suit them, and one way to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from milkernels.family import POOLING_PARAMETERS, WEIGHTED_AVERAGES

#: Weighted averages: the operator of this name serves them.
WEIGHTED = tuple(WEIGHTED_AVERAGES)
POOLINGS = (*POOLING_PARAMETERS, "class_attention")

#: Bag values between the smallest and the largest frame; bag values that are probabilities.
BETWEEN_FRAMES = (*WEIGHTED, "log_mean_exp", "class_attention", "rank")
PROBABILITIES = tuple(name for name in POOLINGS if name != "max_mean")

#: Poolings that take any real number as a frame value; the others weigh by log x.
REAL_VALUED = tuple(
    name
    for name in POOLINGS
    if name not in WEIGHTED_AVERAGES or WEIGHTED_AVERAGES[name].power == "none"
)

#: Poolings with scores beside x.
SCORED = ("attention", "class_attention")

#: Functions that serve another pooling than that of their name.
_FUNCTIONS = {"class_attention": "attention_pool"}

#: The rank pooling's, of most cases.
DECAY = 0.9

ACTIVATIONS = (None, "sigmoid", "tanh", "clamp")

HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Case:
    """A pooling's tensors in the order of its arguments, and its keywords."""

    name: str
    tensors: list[Tensor]
    keywords: dict[str, object] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        return self.tensors[0]

    def to(self, dtype: torch.dtype) -> Case:
        return Case(self.name, [tensor.to(dtype) for tensor in self.tensors], self.keywords)

    def bag_gradient(self) -> Tensor:
        """A dL/dy with both signs that every dtype holds exactly."""
        classes = self.x.shape[3 - self.dim]
        count = self.x.shape[0] * classes
        values = torch.arange(count, device=self.x.device) % 7 - 3
        return values.reshape(self.x.shape[0], classes).to(self.x.dtype)

    @property
    def dim(self) -> int:
        return 1 if self.keywords.get("dim", -1) == 1 else 2

    def run(self, module: object) -> list[Tensor]:
        """Bag values, then the gradients of the case's tensors."""
        return self.run_function(self.function(module), **self.keywords)

    def function(self, module: object) -> Callable[..., Tensor]:
        """The pooling as `milkernels.functional` or `milkernels.reference` has it."""
        return getattr(module, _FUNCTIONS.get(self.name, f"{self.name}_pool"))

    def run_function(self, function: Callable[..., Tensor], **keywords: object) -> list[Tensor]:
        tensors = [tensor.detach().requires_grad_() for tensor in self.tensors]
        y = function(*tensors, **keywords)
        return [y.detach(), *torch.autograd.grad(y, tensors, self.bag_gradient())]

    def run_for_x(self, module: object) -> list[Tensor]:
        """Bag values, and x's gradient alone."""
        x, *others = self.tensors
        leaf = x.detach().requires_grad_()
        y = self.function(module)(leaf, *others, **self.keywords)
        return [y.detach(), *torch.autograd.grad(y, leaf, self.bag_gradient())]


def make_case(
    name: str,
    bags: int = 2,
    classes: int = 5,
    frames: int = 37,
    *,
    dim: int = -1,
    from_logits: bool = False,
    masked: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    score_activation: str | None = None,
) -> Case:
    """Random inputs: probabilities or logits, per-class parameters, scores."""
    shape = (bags, frames, classes) if dim == 1 else (bags, classes, frames)
    x = 3 * torch.randn(shape) if from_logits else torch.rand(shape)
    if name == "noisy_or":
        # Rare enough that some bags stay open: of many likely frames the product vanishes.
        x = torch.rand(shape) * min(1, 4 / max(frames, 1))
        x = x.clamp(min=1e-6).logit() if from_logits else x
    extra: list[Tensor] = []
    parameters = POOLING_PARAMETERS.get(name, ())
    if "power" in parameters:
        extra.append(3 * torch.rand(classes))
    if "alpha" in parameters:
        extra.append(2 * torch.randn(classes))
    if "sharpness" in parameters:
        extra.append(4 * torch.randn(classes))
    if name in SCORED:
        extra.append(2 * torch.randn(shape))
    keywords: dict[str, object] = {"dim": dim, "from_logits": from_logits}
    if name in SCORED:
        keywords["score_activation"] = score_activation
    if name == "class_attention":
        keywords["normalize"] = "classes"
    if name == "rank":
        keywords["decay"] = DECAY
    if masked:
        mask = torch.rand(bags, frames) < 0.7
        mask[:, 0] = True
        keywords["mask"] = mask.to(device)
    return Case(name, [tensor.to(device, dtype) for tensor in (x, *extra)], keywords)


def with_gaps(tensor: Tensor) -> Tensor:
    """The same frames, no line of which follows the one before in memory."""
    if tensor.dim() != 3:
        return tensor
    wider = torch.full((*tensor.shape[:2], tensor.shape[2] + 3), float("nan"))
    wider[..., : tensor.shape[2]] = tensor
    return wider[..., : tensor.shape[2]]


def assert_close(ours: list[Tensor], truth: list[Tensor], relative: float) -> None:
    """Each tensor's largest error is within `relative` of its largest value."""
    for index, (one, other) in enumerate(zip(ours, truth, strict=True)):
        assert one.shape == other.shape
        if one.numel() == 0:
            continue
        error = (one.double() - other.double()).abs().max().item()
        scale = other.double().abs().max().item()
        assert error <= relative * scale + 1e-300, f"tensor {index}: {error} of {scale}"
