"""Wrong masks of drop-in heads: one line that names the mask, what was expected and what came."""

import originals
import pytest
import torch

from milkernels import compat

FRAMES = torch.randn(3, 6, 11)
BAGS = FRAMES.transpose(1, 2)
FLAGS = torch.ones(3, 11, dtype=torch.bool)

WRONG_MASKS = {
    "mask: expected a bool tensor (True = real frame), got torch.float32": (
        TypeError,
        lambda: compat.AttBlock(6, 4)(FRAMES, FLAGS.float()),
    ),
    "mask: expected shape (3, 11), (batch, frames), got (1, 11)": (
        ValueError,
        lambda: compat.AttBlockV2(6, 4)(FRAMES, FLAGS[:1]),
    ),
    "mask: expected a bool tensor (True = real frame), got torch.int64": (
        TypeError,
        lambda: compat.GatedAttention(6)(BAGS, FLAGS.long()),
    ),
    "mask: expected a bool tensor (True = real frame), got list": (
        TypeError,
        lambda: compat.GatedAttention(6)(BAGS, FLAGS.tolist()),
    ),
    "mask: expected shape (3, 11), (batch, frames), got (3, 1)": (
        ValueError,
        lambda: compat.GatedAttention(6)(BAGS, FLAGS[:, :1]),
    ),
    "mask: expected a tensor on h's device cpu, got meta": (
        ValueError,
        lambda: compat.GatedAttention(6)(BAGS, FLAGS.to("meta")),
    ),
    "mask: expected None beside one bag h, got a tensor of shape (11,)": (
        ValueError,
        lambda: compat.GatedAttention(6)(BAGS[0], FLAGS[0]),
    ),
    "lengths: expected a tensor, got list": (
        TypeError,
        lambda: compat.AttentiveStatisticsPooling(6)(FRAMES, [1.0, 1.0, 1.0]),
    ),
    "lengths: expected real numbers, got torch.complex64": (
        TypeError,
        lambda: compat.AttentiveStatisticsPooling(6)(FRAMES, torch.ones(3) * 1j),
    ),
    "lengths: expected shape (3,), (batch,), got (2,)": (
        ValueError,
        lambda: compat.AttentiveStatisticsPooling(6)(FRAMES, torch.ones(2)),
    ),
    "lengths: expected shape (3,), (batch,), got (3, 1)": (
        ValueError,
        lambda: compat.AttentiveStatisticsPooling(6)(FRAMES, torch.ones(3, 1)),
    ),
    "pad_mask: expected a bool tensor (True = padded), got torch.float32": (
        TypeError,
        lambda: compat.DESEDHead(6, 4)(BAGS, FLAGS.float()),
    ),
    "pad_mask: expected a shape that broadcasts to (3, 4, 11), (batch, classes, frames), or "
    "(3, 11), (batch, frames), got (11, 3)": (
        ValueError,
        lambda: compat.DESEDHead(6, 4)(BAGS, FLAGS.T),
    ),
    "pad_mask: expected a shape that broadcasts to (3, 4, 11), (batch, classes, frames), or "
    "(3, 11), (batch, frames), got (3, 11, 1)": (
        ValueError,
        lambda: compat.DESEDHead(6, 4)(BAGS, FLAGS[..., None]),
    ),
    "pad_mask: expected a tensor on x's device cpu, got meta": (
        ValueError,
        lambda: compat.DESEDHead(6, 4)(BAGS, FLAGS.to("meta")),
    ),
    "classes_mask: expected a bool tensor (True = covered), got torch.uint8": (
        TypeError,
        lambda: compat.DESEDHead(6, 4)(BAGS, None, FLAGS[:, :4].byte()),
    ),
    "classes_mask: expected a shape that broadcasts to (3, 4), (batch, classes), got (4,)": (
        ValueError,
        lambda: compat.DESEDHead(6, 4)(BAGS, None, FLAGS[0, :4]),
    ),
}


@pytest.mark.parametrize("message", WRONG_MASKS)
def test_a_wrong_mask_is_named_in_one_line(message):
    error, call = WRONG_MASKS[message]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


def test_a_wrong_mask_is_named_in_a_head_that_was_taken_over():
    model = originals.CRNN(6, 4)
    compat.replace(model)
    with pytest.raises(
        ValueError, match=r"^pad_mask: expected a shape that broadcasts to \(3, 4, 11"
    ):
        model(BAGS, FLAGS[:, None, :5])
