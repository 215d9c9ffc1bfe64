"""Attention over a row by two linear layers."""

import pytest
import torch
from budget import assert_errors_within_budget
from cases import HALF_AND_SINGLE, assert_close
from combinations import every_pair
from linear_attention_cases import VARIANTS, make_inputs, naive, pool, row_gradient, run, truth
from torch import Tensor

import milkernels
from milkernels import functional

WIDTHS = (1, 5, 16, 64, 100, 311)


def rows_for(width: int, backend: str) -> tuple[int, ...]:
    """Few for the interpreter, which is slow where weights are walked in blocks."""
    if backend != "triton" or torch.cuda.is_available():
        return (3, 50)
    if width > 100:
        pytest.skip("minutes in the interpreter, where 100 takes the same path")
    return (3, 7) if width > 64 else (4, 20)


@pytest.mark.parametrize(
    ("variant", "width", "dtype"), every_pair(VARIANTS, WIDTHS, HALF_AND_SINGLE), ids=str
)
def test_errors_stay_within_twice_eager_pytorchs(kernel_backend, device, variant, width, dtype):
    tensors = make_inputs(width, *rows_for(width, kernel_backend), dtype=dtype, device=device)
    ours = run(pool, tensors, variant)
    assert all(tensor.dtype == dtype for tensor in ours)
    assert_errors_within_budget(ours, run(naive, tensors, variant), truth(tensors, variant))


@pytest.mark.parametrize("width", [5, 64, 70])
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_equals_the_oracle(kernel_backend, device, variant, width):
    tensors = make_inputs(width, 3, 7, dtype=torch.float64, device=device)
    assert_close(run(pool, tensors, variant), truth(tensors, variant), relative=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_may_have_their_own_dtype(kernel_backend, device, variant):
    tensors = make_inputs(16, 4, 9, dtype=torch.bfloat16, device=device)
    tensors[1:] = [tensor.float() for tensor in tensors[1:]]
    ours = run(pool, tensors, variant)
    assert [tensor.dtype for tensor in ours[2:]] == [torch.float32] * 4
    assert_close(ours, truth(tensors, variant), relative=2e-2)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 97])
@pytest.mark.parametrize("width", [15, 17, 33, 63])
def test_every_remainder_of_the_tiles_is_right(kernel_backend, device, width, rows):
    tensors = make_inputs(width, rows, device=device)
    assert_close(run(pool, tensors, "paper"), truth(tensors, "paper"), relative=4e-6)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4, 5)])
def test_any_leading_shape(any_backend, device, shape):
    tensors = make_inputs(6, *shape, device=device)
    ours = run(pool, tensors, "paper")
    assert ours[0].shape == shape
    assert_close(ours, truth(tensors, "paper"), relative=4e-6)


VIEWS = {
    "transposed": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1),
    "last axis first": lambda z: z.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every second value": lambda z: torch.stack([z, -z], -1).flatten(2)[..., ::2],
    "inside a larger tensor": lambda z: torch.nn.functional.pad(z, (3, 2, 1, 4))[:, 1:-4, 3:-2],
    "backwards": lambda z: z.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_any_strides_give_the_same_numbers(kernel_backend, device, view):
    tensors = make_inputs(18, 3, 5, device=device)
    plain = run(pool, tensors, "code")
    tensors[0] = view(tensors[0])
    tensors[1] = tensors[1].t().contiguous().t()
    for one, other in zip(run(pool, tensors, "code"), plain, strict=True):
        assert torch.equal(one, other)


def test_expanded_rows_and_a_summed_result(kernel_backend, device):
    """Strides of 0, in z and in the gradient that `.sum()` sends."""
    tensors = make_inputs(9, 1, 4, device=device)
    tensors[0] = tensors[0].expand(3, 4, 9)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = functional.linear_attention_pool(*leaves)
    summed = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    ones = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert all(torch.equal(one, other) for one, other in zip(summed, ones, strict=True))
    # NumPy, which multiplies for the interpreter, rounds by where a row lies.
    torch.testing.assert_close(y[0], y[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6), (3, 0), (0, 0)])
def test_nothing_in_gives_zeros_and_gradients_of_zero(any_backend, device, shape):
    y, *gradients = run(pool, make_inputs(shape[-1], *shape[:-1], device=device), "paper")
    assert torch.equal(y, torch.zeros(shape[:-1], device=device))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_nan_stays_in_its_row(kernel_backend, device):
    tensors = make_inputs(20, 10, device=device)
    clean_y, clean_gradient = run(pool, tensors, "paper")[:2]
    tensors[0][4, 3] = float("nan")
    y, gradient = run(pool, tensors, "paper")[:2]
    others = [row for row in range(10) if row != 4]
    assert y[4].isnan()
    assert gradient[4].isnan().all()
    assert torch.equal(y[others], clean_y[others])
    assert torch.equal(gradient[others], clean_gradient[others])


@pytest.mark.parametrize("variant", VARIANTS)
def test_large_scores_do_not_overflow(any_backend, device, variant):
    tensors = make_inputs(12, 30, device=device)
    tensors[1] = tensors[1] * 300
    assert all(tensor.isfinite().all() for tensor in run(pool, tensors, variant))


def test_the_papers_values_leave_zero_and_one_and_its_programs_do_not(any_backend, device):
    """The class branch of equation 9 is linear, whatever the paper says of its range."""
    tensors = make_inputs(24, 50, device=device)
    tensors[4] = 8 * tensors[4].abs()
    paper = functional.linear_attention_pool(*tensors, "paper")
    code = functional.linear_attention_pool(*tensors, "code")
    assert paper.max() > 1
    assert 0 <= code.min() <= code.max() <= 1


def test_an_average_of_saturated_probabilities_is_not_above_one(any_backend, device):
    tensors = make_inputs(64, 200, device=device)
    tensors[4] = torch.full_like(tensors[4], 30.0)
    assert functional.linear_attention_pool(*tensors, "code").max() <= 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck_and_gradgradcheck(any_backend, device, variant):
    tensors = make_inputs(4, 2, 3, dtype=torch.float64, device=device)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    fast = any_backend == "triton"

    def function(*tensors):
        return functional.linear_attention_pool(*tensors, variant)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=fast)


@pytest.mark.parametrize("needed", [[0], [1], [4], [0, 2], [1, 2, 3, 4]])
@pytest.mark.parametrize("width", [7, 65])
def test_only_what_needs_a_gradient_gets_one(kernel_backend, device, width, needed):
    tensors = make_inputs(width, 11, device=device)
    whole = run(pool, tensors, "code")[1:]
    leaves = [tensor.requires_grad_(index in needed) for index, tensor in enumerate(tensors)]
    y = functional.linear_attention_pool(*leaves, "code")
    wanted = [leaves[index] for index in needed]
    gradients = torch.autograd.grad(y, wanted, row_gradient(tensors[0]))
    for index, gradient in zip(needed, gradients, strict=True):
        assert torch.equal(gradient, whole[index])


@pytest.mark.parametrize("width", [16, 65])
def test_a_second_run_gives_the_same_bits(kernel_backend, device, width):
    tensors = make_inputs(width, 40, device=device)
    first, second = (run(pool, tensors, "paper") for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("width", [5, 64, 311])
def test_the_number_of_threads_does_not_change_a_bit(width):
    tensors = make_inputs(width, 2000)
    threads = torch.get_num_threads()
    results = []
    with milkernels.backend("cpp"):
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(pool, tensors, "paper"))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_sums_over_many_rows_stay_exact():
    tensors = make_inputs(16, 200_000)
    with milkernels.backend("cpp"):
        assert_close(run(pool, tensors, "paper"), truth(tensors, "paper"), relative=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [8, 65])
def test_opcheck_passes(kernel_backend, device, width, variant):
    tensors = make_inputs(width, 2, 3, device=device)
    operators = torch.ops.milkernels
    options = (variant, kernel_backend)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        operators.linear_attention.default, (*tensors, *options), test_utils=checks
    )
    y, statistics = operators.linear_attention(*tensors, *options)
    arguments = (torch.ones_like(y), *tensors, statistics, [True] * 5, *options)
    torch.library.opcheck(operators.linear_attention_backward.default, arguments, test_utils=checks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_into_one_graph(variant):
    tensors = make_inputs(8, 2, 3)

    def loss(z, *layers):
        return functional.linear_attention_pool(2 * z, *layers, variant).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    with milkernels.backend("cpp"):
        for rows in (3, 5):
            results = []
            for function in (loss, compiled):
                leaves = [t.detach().clone().requires_grad_() for t in make_inputs(8, 2, rows)]
                leaves[1:] = [t.detach().clone().requires_grad_() for t in tensors[1:]]
                with torch.no_grad():
                    leaves[0].fill_(0.5)
                function(*leaves).backward()
                results.append([leaf.grad for leaf in leaves])
            for eager, graph in zip(*results, strict=True):
                assert torch.equal(eager, graph)


class Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of every tensor that an operator returns in memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        known = {
            argument.untyped_storage().data_ptr()
            for argument in torch.utils._pytree.tree_leaves((arguments, keywords))
            if isinstance(argument, Tensor)
        }
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.bytes += tensor.untyped_storage().nbytes()
        return result


def test_neither_layers_output_reaches_memory():
    """Beside z's own gradient a step allocates a few values for each row, and eager PyTorch
    several tensors of z's size."""
    leaves = [tensor.requires_grad_() for tensor in make_inputs(64, 16384)]
    size = leaves[0].nbytes
    taken = {}
    with milkernels.backend("cpp"):
        for function in (pool, naive):
            with Allocations() as allocations:
                y = function(*leaves, "paper")
                torch.autograd.grad(y, leaves, torch.ones_like(y))
            taken[function] = allocations.bytes - size
    assert taken[pool] <= 0.15 * size
    assert taken[pool] <= 0.05 * taken[naive]


Z = torch.rand(4, 3)
SQUARE, ROW = torch.rand(3, 3), torch.rand(3)
LAYERS = (SQUARE, ROW, SQUARE, ROW)

WRONG = {
    "z: expected a tensor, got float": (
        TypeError,
        lambda: functional.linear_attention_pool(1.0, *LAYERS),
    ),
    "z: expected a float64, float32, bfloat16 or float16 tensor, got torch.int64": (
        TypeError,
        lambda: functional.linear_attention_pool(Z.long(), *LAYERS),
    ),
    "z: expected at least 1 dimension (..., L), got shape ()": (
        ValueError,
        lambda: functional.linear_attention_pool(Z[0, 0], *LAYERS),
    ),
    "att_weight: expected shape (3, 3), as z's last axis asks, got (4, 3)": (
        ValueError,
        lambda: functional.linear_attention_pool(Z, Z, ROW, SQUARE, ROW),
    ),
    "cla_bias: expected shape (3,), as z's last axis asks, got (4,)": (
        ValueError,
        lambda: functional.linear_attention_pool(Z, SQUARE, ROW, SQUARE, torch.rand(4)),
    ),
    "att_bias: expected a tensor on z's device cpu, got meta": (
        ValueError,
        lambda: functional.linear_attention_pool(Z, SQUARE, ROW.to("meta"), SQUARE, ROW),
    ),
    "variant: expected one of 'paper', 'code', got 'papers'": (
        ValueError,
        lambda: functional.linear_attention_pool(Z, *LAYERS, "papers"),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_the_error_names_what_is_wrong(message):
    error, call = WRONG[message]
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.skipif(torch.version.hip is not None, reason="AMD's matrix units know float32")
@pytest.mark.parametrize(("setting", "products"), [("tf32", "tf32"), ("ieee", "tf32x3")])
def test_triton_multiplies_as_pytorch_is_told_to(setting, products):
    from milkernels.kernels.linear_attention import forward  # noqa: PLC0415 - Triton

    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = setting
        z, *layers = make_inputs(16, 4)
        launches, _ = forward(z, layers, "paper", z.new_empty(4), z.new_empty(12))
    finally:
        matmul.fp32_precision = before
    assert [launch.arguments["PRECISION"] for launch in launches] == [products]
