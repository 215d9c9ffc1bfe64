"""What hypothesis draws: sizes, strides, dtypes, masks and hostile values.

A situation is a few names and a seed; its cases are made of them. A failure shrinks to the smallest
sizes and the first names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from cases import ACTIVATIONS, REAL_VALUED, SCORED, Case, make_case
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from packed_cases import PackedCase, make_packed
from statistics_cases import StatisticsCase, stats_case
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: Frame values that floors, rounding and exponentials meet.
PROBABILITIES = (0.5, 0.0, 1.0, 1e-40, 1e-30, 1e-8, 1e-7, 2e-7, 1 - 2**-24, 1 - 2**-8)
LOGITS = (0.0, 1e-8, 1e-40, 17.0, -17.0, 90.0, -90.0, 1e4, -1e4)
#: No round numbers, whose products are exact by luck.
EMBEDDINGS = (0.0, 1e-40, 101.37, -98.61)
SCORES = (0.0, 1e-40, 50.0, -50.0, 1e4, -1e4)
QUERIES = (0.0, 1e-40, 10.0, -10.0)

#: Learned numbers of a class, at their bounds and far out.
PARAMETERS = {
    "power": (1.0, 0.0, 0.5, 2.0, 1e-8, 30.0),
    "alpha": (1.0, 0.0, -1.0, 1e-8, 30.0, -30.0),
    "sharpness": (1.0, -1.0, 0.0, 1e-8, 1e-3, 100.0, -100.0),
}
LEARNED = {
    "power": ("power",),
    "auto": ("alpha",),
    "power_exp": ("power", "alpha"),
    "log_mean_exp": ("sharpness",),
}

#: The same numbers in other memory; "of all" repeats some by a stride of 0.
STRIDES = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "first dimension last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every second": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "inside a larger tensor": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[..., 1:-4, 3:-2],
    "one row of all": lambda x: x[..., :1, :].contiguous().expand_as(x),
    "one column of all": lambda x: x[..., :1].contiguous().expand_as(x),
    "one bag of all": lambda x: x[:1].contiguous().expand_as(x),
}

MASKS = {
    "none": lambda bags, frames: None,
    "random": lambda bags, frames: torch.rand(bags, frames) < 0.5,
    "prefix": lambda bags, frames: torch.arange(frames) < torch.randint(frames + 1, (bags, 1)),
    "all false": lambda bags, frames: torch.zeros(bags, frames, dtype=torch.bool),
}

#: Cases of a situation, and elements after which the later of them are left out.
FEW_CASES, ENOUGH_ELEMENTS = 4, 300


def sprinkle(x: Tensor, values: tuple[float, ...], share: float) -> Tensor:
    """x with `share` of its elements replaced by some of `values`."""
    chosen = torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), x.shape)]
    return torch.where(torch.rand(x.shape) < share, chosen.to(x.dtype), x)


@dataclass(frozen=True)
class Situation:
    """What every operator's cases have. `values` says how hostile x is: `share` of it among the
    usual, or all of it `choice`, or all close to that."""

    name: str
    frames: int
    dtype: torch.dtype
    strides: str
    values: str
    choice: int
    share: float
    parameter_share: float
    seed: int

    def cases(self, device: str, most: int = FEW_CASES) -> Iterator[Case | PackedCase]:
        """Up to `most` cases of this situation in different numbers, fewer large ones."""
        elements = 0
        for repetition in range(most):
            torch.manual_seed(self.seed + repetition)
            case = self.make(device)
            yield case
            elements += case.tensors[0].numel()
            if elements == 0 or elements >= ENOUGH_ELEMENTS * most / FEW_CASES:
                return

    def make(self, device: str) -> Case | PackedCase:
        raise NotImplementedError

    def hostile(self, x: Tensor, values: tuple[float, ...]) -> Tensor:
        if self.values == "some":
            return sprinkle(x, values, self.share)
        value = values[self.choice % len(values)]
        if self.values == "equal":
            return torch.full_like(x, value)
        return value * (1 - 1e-3 * torch.rand_like(x)) if self.values == "close" else x

    def laid_out(self, tensor: Tensor, dimensions: int, device: str) -> Tensor:
        tensor = tensor.to(device, self.dtype)
        return STRIDES[self.strides](tensor) if tensor.dim() == dimensions else tensor


@dataclass(frozen=True)
class OfFrameValues(Situation):
    """A pooling of frame values."""

    classes: int
    from_logits: bool
    embeddings: bool

    def hostile_tensors(self, tensors: list[Tensor]) -> list[Tensor]:
        x, *rest = tensors
        real = self.name in REAL_VALUED and self.name != "noisy_or" and not self.from_logits
        if real and self.embeddings:
            x = self.hostile(3 * torch.randn_like(x), EMBEDDINGS)
        else:
            x = self.hostile(x, LOGITS if self.from_logits else PROBABILITIES)
        values = [PARAMETERS[parameter] for parameter in LEARNED.get(self.name, ())]
        values += [SCORES] * (self.name in SCORED)
        parameters = zip(rest, values, strict=True)
        return [x, *(sprinkle(tensor, some, self.parameter_share) for tensor, some in parameters)]


@dataclass(frozen=True)
class Padded(Situation):
    """Frames in bags of one length with a mask, under which `poison` lies."""

    bags: int
    dim: int
    mask: str
    poison: float

    def masked(self, case: Case, device: str) -> Case:
        case.tensors = [self.laid_out(tensor, 3, device) for tensor in case.tensors]
        real = MASKS[self.mask](self.bags, self.frames)
        if real is not None:
            case.keywords["mask"] = real = real.to(device)
            hidden = ~(real[:, None] if case.dim == 2 else real[..., None])
            for tensor in case.tensors:
                if tensor.dim() == 3 and not self.strides.endswith("of all"):
                    tensor.masked_fill_(hidden, self.poison)
        return case


@dataclass(frozen=True)
class PaddedPooling(Padded, OfFrameValues):
    activation: str | None

    def make(self, device: str) -> Case:
        case = make_case(
            *(self.name, self.bags, self.classes, self.frames),
            dim=self.dim,
            from_logits=self.from_logits,
            score_activation=self.activation,
        )
        case.tensors = self.hostile_tensors(case.tensors)
        return self.masked(case, device)


@dataclass(frozen=True)
class PackedPooling(OfFrameValues):
    lengths: tuple[int, ...]

    def make(self, device: str) -> PackedCase:
        lengths = [min(length, self.frames) for length in self.lengths]
        case = make_packed(
            self.name, lengths, self.classes, from_logits=self.from_logits, device=device
        )
        tensors = self.hostile_tensors([tensor.cpu() for tensor in case.tensors])
        case.tensors = [self.laid_out(tensor, 2, device) for tensor in tensors]
        return case


@dataclass(frozen=True)
class Statistics(Padded):
    heads: int
    width: int

    def make(self, device: str) -> StatisticsCase:
        channels = self.heads * self.width
        case = stats_case(self.name, self.bags, channels, self.frames, self.heads, dim=self.dim)
        h, other = case.tensors
        values = SCORES if self.name == "weighted_stats" else QUERIES
        other = sprinkle(other, values, self.parameter_share)
        case.tensors = [self.hostile(h, EMBEDDINGS), other]
        return self.masked(case, device)


def sizes(limit: int) -> SearchStrategy[int]:
    """Sizes about those of vectors and tiles."""
    return st.sampled_from([s for s in (2, 1, 0, 3, 5, 16, 17, 33, 64, 65, 130, 300) if s <= limit])


def situations(kind: type[Situation], name: str, limit: int) -> SearchStrategy[Situation]:
    """Situations of a kind with up to `limit` frames in a bag."""
    fields = {
        "frames": sizes(limit),
        "dtype": st.sampled_from(DTYPES),
        "strides": st.sampled_from(list(STRIDES)),
        "values": st.sampled_from(["usual", "some", "equal", "close"]),
        "choice": st.integers(0, 9),
        "share": st.sampled_from([0.5, 0.1, 1.0]),
        "parameter_share": st.sampled_from([0.0, 0.2, 1.0]),
        "seed": st.integers(0, 2**16),
        "classes": sizes(min(limit, 65)),
        "from_logits": st.booleans(),
        "embeddings": st.booleans(),
        "bags": st.sampled_from([2, 1, 0, 3]),
        "dim": st.sampled_from([-1, 1]),
        "mask": st.sampled_from(list(MASKS)),
        "poison": st.sampled_from([0.0, torch.nan, torch.inf]),
        "activation": st.sampled_from(ACTIVATIONS if name in SCORED else (None,)),
        "lengths": st.lists(sizes(limit), max_size=6).map(tuple),
        "heads": st.sampled_from([2, 1, 3]),
        "width": st.sampled_from([2, 1, 5, 16]),
    }
    own = {field: fields[field] for field in kind.__dataclass_fields__ if field != "name"}
    return st.builds(kind, name=st.just(name), **own)
