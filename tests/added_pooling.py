"""A pooling as CONTRIBUTING.md says that one is added: what is written, and below which line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAME = "linear_exp"


@dataclass(frozen=True)
class Addition:
    """Lines for a file of the sources, below the first line that reads `below`."""

    path: str
    below: str
    text: str

    def apply(self, root: Path) -> None:
        """Change the file.

        Raises:
            ValueError: if the file has no such line.
        """
        path = root / self.path
        lines = path.read_text().split("\n")
        if self.below not in lines:
            raise ValueError(f"{self.path}: expected a line {self.below!r}, found none")
        lines.insert(lines.index(self.below) + 1, self.text)
        path.write_text("\n".join(lines))


ADDITIONS = (
    Addition(
        "milkernels/family.py",
        '    "exp_softmax": Member(alpha="one"),',
        '    "linear_exp": Member(alpha="one", power="one"),',
    ),
    Addition(
        "milkernels/reference/weighted_average.py",
        "    return values.average(exp_softmax_log_weight(values))",
        '''

def linear_exp_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    """y = Σ x_i² exp(x_i) / Σ x_i exp(x_i). [source]"""
    values = Frames(x, dim, mask, from_logits)
    return values.average(linear_exp_log_weight(values))''',
    ),
    Addition(
        "milkernels/reference/weighted_average.py",
        "    return values.log_x()",
        """

def linear_exp_log_weight(values: Frames) -> Tensor:
    return values.log_x() + values.x""",
    ),
    Addition("milkernels/reference/__init__.py", "    exp_softmax_pool,", "    linear_exp_pool,"),
    Addition(
        "milkernels/reference/__init__.py",
        '    "linear_attention_pool",',
        '    "linear_exp_pool",',
    ),
    Addition(
        "milkernels/functional/weighted_average.py",
        '    return _weighted_average("exp_softmax", x, None, None, dim, mask, from_logits)',
        r'''

def linear_exp_pool(
    x: Tensor, *, dim: int = -1, mask: Tensor | None = None, from_logits: bool = False
) -> Tensor:
    r"""Linear and exponential weights together. [source]

    $$y = \frac{\sum_i x_i^2 \exp(x_i)}{\sum_i x_i \exp(x_i)}$$

    >>> linear_exp_pool(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.5269]])
    """
    return _weighted_average("linear_exp", x, None, None, dim, mask, from_logits)''',
    ),
    Addition("milkernels/functional/__init__.py", "    exp_softmax_pool,", "    linear_exp_pool,"),
    Addition(
        "milkernels/functional/__init__.py",
        '    "linear_attention_pool",',
        '    "linear_exp_pool",',
    ),
    Addition(
        "milkernels/nn/frame_level.py",
        '    _function = "exp_softmax_pool"',
        '''

class LinearExpPool(_OfFrames):
    """`milkernels.functional.linear_exp_pool`.

    >>> LinearExpPool()(torch.tensor([[[0.2, 0.6]]]))
    tensor([[0.5269]])
    """

    _function = "linear_exp_pool"''',
    ),
    Addition(
        "milkernels/nn/by_name.py",
        '    "exp_softmax": frame_level.ExpSoftmaxPool,',
        '    "linear_exp": frame_level.LinearExpPool,',
    ),
    Addition("milkernels/nn/__init__.py", "    FramePool,", "    LinearExpPool,"),
    Addition("milkernels/nn/__init__.py", '    "GatedFusion",', '    "LinearExpPool",'),
    Addition(
        "tests/eager.py",
        "    return (torch.softmax(x, -1) * x).sum(-1)",
        """

def linear_exp(x: Tensor) -> Tensor:
    return _weighted(x, x.clamp(min=FLOOR) * x.exp())""",
    ),
    Addition(
        "tests/test_papers.py",
        "    assert torch.allclose(gradient_of(reference.linear_softmax_pool, x), expected)",
        """

def test_linear_exp_is_the_ratio_of_sums():
    x = bag()
    weight = x * x.exp()
    assert torch.allclose(reference.linear_exp_pool(x), (weight * x).sum(-1) / weight.sum(-1))""",
    ),
    Addition(
        "benchmarks/frame_level.py",
        '    FrameLevel("exp_softmax"),',
        '    FrameLevel("linear_exp"),',
    ),
    Addition(
        "benchmarks/eager.py",
        "    return (torch.softmax(x, dim) * x).sum(dim)",
        """

def linear_exp(x: Tensor, *, dim: int) -> Tensor:
    return _weighted(x, x.clamp(min=FLOOR) * x.exp(), dim)""",
    ),
    Addition(
        "README.md",
        "| `exp_softmax_pool(x)` | `ExpSoftmaxPool` | exp(x_i) | | [1] |",
        "| `linear_exp_pool(x)` | `LinearExpPool` | x_i exp(x_i) | | |",
    ),
    Addition("CHANGELOG.md", "### Added", "\n- `linear_exp_pool`."),
)
