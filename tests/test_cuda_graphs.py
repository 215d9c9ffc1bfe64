"""Capturing a training step's pooling in a CUDA graph."""

import cases
import pytest
import torch

from milkernels import functional

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", cases.POOLINGS)
def test_a_captured_step_replays_on_new_frames(name):
    case = cases.make_case(name, device="cuda")

    def step():
        return case.run_function(case.function(functional), **case.keywords)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        case.x.copy_(case.x.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    for replayed, again in zip(captured, step(), strict=True):
        assert torch.equal(replayed, again)
