"""Poolings on streams and in graphs of a GPU, and under its autocast."""

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


@pytest.mark.parametrize("name", cases.POOLINGS)
def test_a_stream_waits_for_no_other_than_it_was_told_to(name):
    """Frames that a side stream writes are pooled there, backward too, while the first is busy."""
    case = cases.make_case(name, device="cuda")
    expected = case.run_function(case.function(functional), **case.keywords)
    late = [torch.zeros_like(tensor) for tensor in case.tensors]
    on_side = cases.Case(name, late, case.keywords)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        # Memory that a stream is given for the first time waits for the whole GPU.
        on_side.run_function(on_side.function(functional), **case.keywords)
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for target, tensor in zip(late, case.tensors, strict=True):
            target.copy_(tensor)
        ours = on_side.run_function(on_side.function(functional), **case.keywords)
        assert not side.query()
        finished = side.record_event()
    finished.synchronize()
    assert not torch.cuda.default_stream().query()
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["power_exp", "max", "class_attention", "rank"])
def test_inductor_compiles_it_into_one_graph(name):
    case = cases.make_case(name, dim=1, device="cuda")
    pool = case.function(functional)

    def loss(x, *rest):
        return pool(2 * x, *rest, **case.keywords).square().sum()

    torch.compiler.reset()
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        tensors = [tensor.clone().requires_grad_() for tensor in case.tensors]
        function(*tensors).backward()
        results.append([tensor.grad for tensor in tensors])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", cases.PROBABILITIES)
def test_pooling_and_loss_are_legal_where_autocast_forbids_cross_entropy(name, dtype):
    case = cases.make_case(name, from_logits=True, dtype=dtype, device="cuda")
    x, *rest = case.tensors
    labels = torch.ones(x.shape[:2], device="cuda")
    pooling = "attention" if name == "class_attention" else name
    x.requires_grad_()
    with torch.autocast("cuda", dtype):
        with pytest.raises(RuntimeError, match="autocast"):
            torch.nn.functional.binary_cross_entropy(x.sigmoid(), torch.ones_like(x))
        loss = functional.pool_bce(pooling, x, labels, *rest, **case.keywords)
    assert loss.dtype == torch.float32
    loss.backward()
    assert x.grad.isfinite().all()
