"""Speed of small poolings under pytest-benchmark:
`pytest benchmarks --benchmark-enable --benchmark-only`."""

import pytest
import torch

from benchmarks import cases

MODES = {"forward": False, "training": True}
IMPLEMENTATIONS = {"milkernels": cases.kernel, "eager": cases.eager_form}


@pytest.mark.benchmark(max_time=0.1, min_rounds=3, warmup=True, warmup_iterations=3)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", cases.OPERATIONS)
def test_pooling(benchmark, name, layout, mode, implementation):
    benchmark.group = f"{name} {layout} {mode}"
    operation = cases.OPERATIONS[name]
    case = cases.Case(operation, layout, "float32", "logits", cases.SHAPES["in_cache"])
    inputs = cases.make_inputs(case, torch.device("cpu"), torch.Generator().manual_seed(0))
    function = IMPLEMENTATIONS[implementation](case)
    benchmark(cases.step, function, inputs.requiring_gradients(MODES[mode]))
