"""Speed of small poolings under pytest-benchmark:
`pytest benchmarks --benchmark-enable --benchmark-only`."""

import pytest
import torch

from benchmarks import cases
from benchmarks.operations import OPERATIONS

MODES = {"forward": False, "training": True}
IMPLEMENTATIONS = ("kernel", "eager")


@pytest.mark.benchmark(max_time=0.1, min_rounds=3, warmup=True, warmup_iterations=3)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_pooling(benchmark, name, layout, mode, implementation):
    benchmark.group = f"{name} {layout} {mode}"
    operation = OPERATIONS[name]
    if layout not in operation.layouts:
        pytest.skip("one layout only")
    shape = "in_cache" if "in_cache" in operation.shapes else operation.shapes[0]
    case = cases.Case(operation, layout, "float32", "logits", cases.SHAPES[shape])
    inputs = cases.make_inputs(case, torch.device("cpu"), torch.Generator().manual_seed(0))
    function = getattr(operation, implementation)(case)
    benchmark(cases.step, function, inputs.requiring_gradients(MODES[mode]))
