"""Learning from strongly labelled, weakly labelled and unlabelled clips with a mean teacher.

Tarvainen and Valpola, "Mean teachers are better role models", 2017, as the baseline system of DCASE
2019 task 4 has it (Turpault et al., 2019), on which Liu et al., 2021, build.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.augmentation import Examples
from models.data.audioset import StrongLabel
from models.detector import Detector
from models.frame_targets import frame_targets
from models.losses import frame_loss, squared_error
from models.output import DetectorOutput
from models.system import Batch, DetectorTraining, TrainingOptions, examples_of


@dataclass(frozen=True)
class Supervision:
    """What is known of the training clips; those in neither are unlabelled.

    Attributes:
        strong: the events of each strongly labelled clip, by its name.
        weak: names of the clips whose target is known.
    """

    strong: Mapping[str, Sequence[StrongLabel]]
    weak: Collection[str]


@dataclass(frozen=True)
class MeanTeacherOptions:
    """How much the student follows the teacher, and the teacher the student.

    Attributes:
        decay: of the teacher's average; in step n it is 1 - 1/n while that is less.
        consistency: weight of the consistency losses at its largest.
        ramp_up_steps: steps until then, None for half of all. Before, after n steps, the weight is
            exp(-5 (1 - n / ramp_up_steps)²) as large.
        noise_decibels: the teacher hears the features with noise this far below them.
    """

    decay: float = 0.999
    consistency: float = 2.0
    ramp_up_steps: int | None = None
    noise_decibels: float = 30.0

    def weight(self, step: int, ramp_up_steps: float) -> float:
        """Weight of the consistency losses after `step` steps."""
        if step >= ramp_up_steps:
            return self.consistency
        return self.consistency * math.exp(-5 * (1 - step / ramp_up_steps) ** 2)

    def decay_at(self, step: int) -> float:
        """Decay of the teacher's average in the step of that number, counted from 1."""
        return min(1 - 1 / step, self.decay)


class MeanTeacherTraining(DetectorTraining):
    """Trains a student whose average over the steps teaches it.

    The loss is the cross-entropy of weakly labelled clips, that of the frames of strongly labelled
    ones, what the network adds itself, and for all clips the mean squared differences between the
    student's and the teacher's probabilities of clips and of frames. The teacher is what is
    validated and kept.

    Args:
        detector: the student.
        options: of the training; without mixup, which would mix what is known with what is not.
        supervision: of the training clips.
        mean_teacher: of this scheme.

    Raises:
        ValueError: for mixup, and for a network without frame probabilities.
    """

    def __init__(
        self,
        detector: Detector,
        options: TrainingOptions,
        supervision: Supervision,
        mean_teacher: MeanTeacherOptions | None = None,
    ) -> None:
        super().__init__(detector, options)
        if options.augmentation.mixup:
            raise ValueError("mixup: expected none with a mean teacher, got one")
        if not detector.network.has_frames:
            raise ValueError("detector: expected a network with frame probabilities")
        self.supervision = supervision
        self.mean_teacher = mean_teacher or MeanTeacherOptions()
        self.teacher = copy.deepcopy(detector.network).requires_grad_(False)

    def forward(self, batch: Batch) -> DetectorOutput:
        """Detect with the teacher."""
        examples = examples_of(self.detector, batch)
        return self.teacher(examples.features, examples.lengths)

    def batch_loss(self, batch: Batch) -> tuple[Tensor, DetectorOutput]:
        weak, strong = (
            torch.tensor([name in known for name in batch.clip_ids], device=batch.target.device)
            for known in (self.supervision.weak, self.supervision.strong)
        )
        examples = self.augment(self._with_frame_targets(batch))
        student = self.detector.network(examples.features, examples.lengths)
        with torch.no_grad():
            teacher = self.teacher(self._noisy(examples), examples.lengths)
        mask = student.mask
        loss = frame_loss(
            student.frame[strong],
            examples.frame_target[strong],
            None if mask is None else mask[strong],
        )
        if bool(weak.any()):
            loss = loss + student.clip_loss(examples.target, weak)
        difference = squared_error(student.frame, teacher.frame, mask)
        difference = difference + squared_error(student.clip, teacher.clip)
        weight = self.mean_teacher.weight(self.global_step, self.ramp_up_steps)
        return loss + weight * difference, student

    @property
    def ramp_up_steps(self) -> float:
        """Steps until consistency has its full weight."""
        if self.mean_teacher.ramp_up_steps is not None:
            return self.mean_teacher.ramp_up_steps
        return self.trainer.estimated_stepping_batches / 2

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        # Here and not at the batch's end, by when a checkpoint of this step may be written.
        self._follow(self.mean_teacher.decay_at(self.global_step + 1))

    def finish(self) -> Detector:
        """The teacher as a detector."""
        self.detector.network.load_state_dict(self.teacher.state_dict())
        return self.detector

    def validated(self) -> Detector:
        """A copy with the teacher in it: the student goes on learning."""
        detector = copy.deepcopy(self.detector)
        detector.network.load_state_dict(self.teacher.state_dict())
        return detector

    def _with_frame_targets(self, batch: Batch) -> Examples:
        examples = examples_of(self.detector, batch)
        frames = -(-examples.features.shape[1] // self.detector.network.frame_reduction)
        events = [self.supervision.strong.get(name, ()) for name in batch.clip_ids]
        target = frame_targets(
            events, frames, self.detector.frame_seconds, len(self.detector.classes)
        )
        return replace(examples, frame_target=target.to(examples.target))

    def _noisy(self, examples: Examples) -> Tensor:
        features = examples.features
        values = examples.lengths.clamp(min=1).to(features.device) * features.shape[2]
        power = features.square().sum((1, 2)) / values
        deviation = (power * 10 ** (-self.mean_teacher.noise_decibels / 10)).sqrt()
        return features + deviation[:, None, None] * torch.randn_like(features)

    def _follow(self, decay: float) -> None:
        # Only parameters: the teacher's batch statistics are those of its own passes.
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.teacher.parameters()), list(self.detector.network.parameters()), 1 - decay
            )
