"""Whether a stage is taught by anyone: the teachers of a training, or none."""

from __future__ import annotations

from typing import Any

import torch

from embervlm.data.prepared import PreparedSet
from embervlm.errors import UserError
from embervlm.lesson import Lesson, open_lesson
from embervlm.settings import TrainSettings
from embervlm.train.start import Start


def change_of_teacher(start: Start, lesson: Lesson | None) -> list[str]:
    """What people are told whose training goes on without the teacher that it had: a flag was forgotten."""
    going_on = start.weights if start.resume else None
    if going_on is None or lesson is not None or not (before := going_on.training_args.get("teacher")):
        return []
    return [f"Up to step {going_on.step} {before} taught; from here on there is no teacher."]


def build_lesson(settings: TrainSettings, prepared: PreparedSet, processor: Any, device: torch.device) -> Lesson | None:
    """None with `disable_distillation`, which is Stage 1's default, and where alpha is 0 throughout."""
    (stage,) = settings.stages
    if settings.distillation_targets == "uld" and settings.distillation_loss != "uld":
        raise UserError(
            "--distillation_targets uld pairs tokens by position and knows only ranks: it goes with "
            f"--distillation_loss uld, not {settings.distillation_loss}."
        )
    never = settings.alpha_schedule == "constant" and settings.distillation_alpha == 0
    if settings.disable_distillation or never:
        return None
    folder = settings.output_dir / f"stage{stage}"
    return open_lesson(settings, folder / "teacher_outputs", prepared, processor, device, keep_in=folder)
