"""True events as targets of a network's output frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.detection import TimedLabel


def frame_targets(
    events: Sequence[Sequence[TimedLabel]], frames: int, frame_seconds: float, num_classes: int
) -> Tensor:
    """(clips, frames, classes) float32 of 0 and 1.

    A frame is 1 for a class if one of its events covers the frame's middle; an event too short for
    that has the frame that its own middle lies in.

    Args:
        events: of each clip.
        frames: output frames of the longest clip.
        frame_seconds: from an output frame to the next; frame t covers [t, t + 1) times that.
        num_classes: how many.
    """
    target = torch.zeros(len(events), frames, num_classes)
    for clip, labels in zip(target, events, strict=True):
        for event in labels:
            first = math.ceil(event.onset / frame_seconds - 0.5)
            end = math.ceil(event.offset / frame_seconds - 0.5)
            if first >= end:
                first = int((event.onset + event.offset) / 2 / frame_seconds)
                end = first + 1
            clip[max(first, 0) : end, event.label] = 1
    return target
