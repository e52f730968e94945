"""Numbers that depend on the step and on nothing else."""

from __future__ import annotations

import math

from embervlm.errors import UserError

ALPHA_SCHEDULES = ("constant", "linear", "cosine")


def alpha_at(step: int, total_steps: int, schedule: str, start: float, end: float) -> float:
    """Weight of the distillation loss at optimizer step `step` (0 .. total_steps - 1), from `start` to `end`.

    Raises:
        UserError: unknown schedule.
    """
    if schedule not in ALPHA_SCHEDULES:
        raise UserError(f"alpha_schedule is {schedule!r}; it can be one of {', '.join(ALPHA_SCHEDULES)}.")
    if schedule == "constant":
        return start
    progress = min(1.0, step / max(1, total_steps - 1))
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * progress


def loss_weights(alpha: float | None, sft_weight: float | None) -> tuple[float, float]:
    """(alpha, sft_weight): independent when both are given, else the missing one is the other's complement."""
    if alpha is None and sft_weight is None:
        raise ValueError("one of alpha and sft_weight must be given")
    if alpha is None:
        alpha = 1 - sft_weight  # type: ignore[operator]
    if sft_weight is None:
        sft_weight = 1 - alpha
    if alpha < 0 or sft_weight < 0 or alpha + sft_weight <= 0:
        raise UserError(
            f"The loss weights are distillation_alpha {alpha:g} and sft_weight {sft_weight:g}; both must be 0 or more, "
            "and not both 0."
        )
    return alpha, sft_weight


def capped_warmup(warmup_steps: int, total_steps: int) -> int:
    """Linear warm-up steps, at most a tenth of all steps: a warm-up longer than the run would never reach the peak."""
    return min(warmup_steps, total_steps // 10)
