"""Where a stage starts: fresh, from the weights of the stage before, or in the middle of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embervlm.errors import UserError
from embervlm.settings import TrainSettings
from embervlm.train.checkpoint import FINAL, Checkpoint, last_checkpoint, open_checkpoint

DEFAULT_PRESET = TrainSettings.preset


@dataclass(frozen=True)
class Start:
    """Weights come from `weights` (None: from the preset); `resume` also brings optimizer, position and randomness."""

    weights: Checkpoint | None
    resume: bool
    note: str


def decide_start(stage: int, preset: str, resume_from: Path | None, output_dir: Path) -> Start:
    """
    Raises:
        UserError: no such checkpoint, half of one, a later stage's, or another preset's.
    """
    if resume_from is None:
        before = output_dir / f"stage{stage - 1}" / FINAL
        if stage > 1 and before.is_dir():
            found = _checked(before, preset)
            return Start(found, False, f"Weights: {before} (Stage {stage - 1}, step {found.step}).")
        note = "Weights: new." if stage == 1 else f"Weights: new, not aligned (there is no {before})."
        return Start(None, False, note)
    found = _checked(resume_from, preset)
    if found.stage > stage:
        raise UserError(
            f"{resume_from} is a checkpoint of Stage {found.stage}, which comes after Stage {stage}: "
            f"pass --stages {found.stage}, or a checkpoint of Stage {stage}."
        )
    if found.stage < stage:
        return Start(found, False, f"Weights: {resume_from} (Stage {found.stage}, step {found.step}).")
    if not found.resumable:
        raise UserError(
            f"{resume_from} has no optimizer state (optimizer.pt, scheduler.pt, trainer_state.json): "
            f"Stage {stage} cannot continue from it. Take a checkpoint-N that was written by this stage."
        )
    return Start(found, True, f"Continuing {resume_from} after step {found.step}.")


def _checked(path: Path, preset: str) -> Checkpoint:
    found = open_checkpoint(path)
    if found.preset not in (None, preset) and preset != DEFAULT_PRESET:  # the default is what nobody asked for
        raise UserError(
            f"{path} is a student of preset {found.preset}, this run asks for {preset}: pass --preset {found.preset}."
        )
    return found


def earlier_run(folder: Path) -> str | None:
    """A note when a folder already holds checkpoints that this run does not continue."""
    last = last_checkpoint(folder)
    if last is None:
        return None
    return f"{folder} already holds checkpoints up to {last.name}; they are replaced as steps come by."
