"""Wrong arguments: one line that names the argument, what was expected and what came."""

import pytest
import torch
from cases import POOLINGS, make_case

import milkernels
from milkernels import functional

X = torch.rand(2, 3, 5)
ONES = torch.ones(3)
AXES = "dim: expected -1 or 2 for (batch, classes, frames), 1 for (batch, frames, classes)"

WRONG = {
    "x: expected 3 dimensions (batch, classes, frames), got shape (3, 5)": (
        ValueError,
        lambda: functional.mean_pool(X[0]),
    ),
    "x: expected 3 dimensions (batch, frames, classes), got shape (2, 3, 5, 1)": (
        ValueError,
        lambda: functional.max_pool(X[..., None], dim=1),
    ),
    "x: expected a float64, float32, bfloat16 or float16 tensor, got torch.int64": (
        TypeError,
        lambda: functional.linear_softmax_pool(X.long()),
    ),
    "x: expected a dense tensor, got one of layout torch.sparse_coo": (
        TypeError,
        lambda: functional.mean_pool(X.to_sparse()),
    ),
    "x: expected bags of one length, got a nested tensor, which pool_packed takes": (
        TypeError,
        lambda: functional.mean_pool(torch.nested.nested_tensor([ONES], layout=torch.jagged)),
    ),
    "from_logits: expected True or False, got 'no'": (
        TypeError,
        lambda: functional.mean_pool(X, from_logits="no"),
    ),
    "x: expected a tensor, got list": (TypeError, lambda: functional.mean_pool([[[1.0]]])),
    f"{AXES}, got 0": (
        ValueError,
        lambda: functional.exp_softmax_pool(X, dim=0),
    ),
    f"{AXES}, got True": (
        ValueError,
        lambda: functional.max_pool(X, dim=True),
    ),
    f"{AXES}, got 1.0": (
        ValueError,
        lambda: functional.attention_pool(X, X, dim=1.0),
    ),
    "mask: expected a bool tensor (True = real frame), got torch.float32": (
        TypeError,
        lambda: functional.mean_pool(X, mask=torch.ones(2, 5)),
    ),
    "mask: expected shape (2, 5), (batch, frames), got (2, 3)": (
        ValueError,
        lambda: functional.mean_pool(X, mask=torch.ones(2, 3, dtype=torch.bool)),
    ),
    "alpha: expected shape (3,), (classes,), got (5,)": (
        ValueError,
        lambda: functional.auto_pool(X, torch.ones(5)),
    ),
    "power: expected a float64, float32, bfloat16 or float16 tensor, got torch.int64": (
        TypeError,
        lambda: functional.power_pool(X, ONES.long()),
    ),
    "power: expected a tensor, got float": (TypeError, lambda: functional.power_pool(X, 1.0)),
    "alpha: expected a tensor on x's device cpu, got meta": (
        ValueError,
        lambda: functional.power_exp_pool(X, ONES, ONES.to("meta")),
    ),
    "scores: expected shape (2, 3, 5), x's shape, got (2, 5, 3)": (
        ValueError,
        lambda: functional.attention_pool(X, X.transpose(1, 2)),
    ),
    "scores: expected x's dtype torch.float32, got torch.float64": (
        TypeError,
        lambda: functional.attention_pool(X, X.double()),
    ),
    "score_activation: expected one of None, 'sigmoid', 'tanh', 'clamp', got 'relu'": (
        ValueError,
        lambda: functional.attention_pool(X, X, "relu"),
    ),
    "sharpness: expected a finite number other than 0, got 0.0": (
        ValueError,
        lambda: functional.log_mean_exp_pool(X, 0.0),
    ),
    "sharpness: expected a finite number other than 0, got inf": (
        ValueError,
        lambda: functional.log_mean_exp_pool(X, float("inf")),
    ),
    "sharpness: expected a number or a tensor, got str": (
        TypeError,
        lambda: functional.log_mean_exp_pool(X, "5"),
    ),
    "sharpness: expected shape (3,), (classes,), got (5,)": (
        ValueError,
        lambda: functional.log_mean_exp_pool(X, torch.ones(5)),
    ),
    "normalize: expected 'frames' or 'classes', got 'bags'": (
        ValueError,
        lambda: functional.attention_pool(X, X, normalize="bags"),
    ),
    "decay: expected a float in [0, 1], got 1.5": (
        ValueError,
        lambda: functional.rank_pool(X, 1.5),
    ),
    "decay: expected a float in [0, 1], got nan": (
        ValueError,
        lambda: functional.rank_pool(X, float("nan")),
    ),
    "decay: expected a float in [0, 1], got bool": (
        TypeError,
        lambda: functional.rank_pool(X, True),
    ),
    "decay: expected a float in [0, 1], got str": (
        TypeError,
        lambda: functional.rank_pool(X, "0.5"),
    ),
    "backend: expected one of auto, triton, cpp, reference, got 'cuda'": (
        ValueError,
        lambda: milkernels.backend("cuda"),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_the_error_names_what_is_wrong(message):
    error, call = WRONG[message]
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("name", POOLINGS)
def test_every_backend_refuses_the_same(any_backend, name):
    case = make_case(name)
    case.keywords["mask"] = torch.ones(2, 36, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask"):
        case.function(functional)(*case.tensors, **case.keywords)
