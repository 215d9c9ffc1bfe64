"""Hold an implementation to the float64 reference before it is timed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from benchmarks.cases import Case, Inputs, Pooling, step

#: Error allowed in an element, relative to its size plus the tensor's mean size.
_VALUE_TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2}
_GRADIENT_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}

#: What is compared with need only compute the same thing, in its own precision.
_BASELINE_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Truth:
    """Bag values and the gradients of the arguments, in float64."""

    values: Tensor
    gradients: tuple[Tensor, ...]


def truth(case: Case, inputs: Inputs) -> Truth:
    """The reference on the same inputs in float64."""
    exact = inputs.double().requiring_gradients(True)
    values, *gradients = step(case.operation.oracle(case), exact)
    return Truth(values.detach(), tuple(gradients))


def problem_of_kernel(case: Case, function: Pooling, inputs: Inputs, expected: Truth) -> str | None:
    """What is wrong with the values, in either mode, or with a gradient; None if nothing is."""
    (without,) = step(function, inputs.requiring_gradients(False))
    values, *gradients = step(function, inputs.requiring_gradients(True))
    tolerance = _VALUE_TOLERANCES[case.dtype]
    compared = [
        ("values without gradients", without, expected.values, tolerance),
        ("values", values.detach(), expected.values, tolerance),
    ]
    tolerance = _GRADIENT_TOLERANCES[case.dtype]
    for name, gradient, right in zip(
        case.operation.arguments, gradients, expected.gradients, strict=True
    ):
        compared.append((f"gradient of {name}", gradient, right, tolerance))
    return next(filter(None, (_problem(*item) for item in compared)), None)


def problem_of_baseline(function: Pooling, inputs: Inputs, expected: Truth) -> str | None:
    """Whether the values are those of another pooling."""
    (values,) = step(function, inputs.requiring_gradients(False))
    return _problem("values", values, expected.values, _BASELINE_TOLERANCE)


def _problem(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> str | None:
    scale = expected.abs()
    error = (actual.double() - expected).abs() / (scale + scale.mean() + 1e-30)
    worst = error.max().item()
    return None if worst <= tolerance else f"{name} off by {worst:.1e}, {tolerance:.0e} allowed"
