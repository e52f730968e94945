"""What the trainings of a run left: their curves, who taught, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.evaluate.pages.report_inputs import Kind, TrainingRun
from embervlm.evaluate.questions import find_path
from embervlm.evaluate.results import EvalResult, read_json

UNDISTILLED = "undistilled"
"""Folder beside stage1/ and stage2/ where the same training without a teacher lies."""

TOLD = (
    "teacher_model", "distillation_alpha", "sft_weight", "alpha_schedule", "distillation_temperature",
    "learning_rate", "batch_size", "epochs", "max_steps", "warmup_steps", "max_length", "seed",
)  # fmt: skip
"""Settings of the training that a report names."""

OF_A_TEACHER = ("teacher_model", "distillation_alpha", "sft_weight", "alpha_schedule", "distillation_temperature")
"""Those that a training without a teacher does not use."""


def training_runs(outputs: Path) -> tuple[TrainingRun, ...]:
    """The histories of both stages, and of the student without a teacher."""
    runs = []
    for folder, stage in ((outputs / "stage1", 1), (outputs / "stage2", 2), (outputs / UNDISTILLED / "stage2", 2)):
        if (folder / "metrics.json").is_file():
            data = read_metrics(folder / "metrics.json")
            name, kind = _name_of(folder, stage, data["history"])
            runs.append(TrainingRun(name, kind, stage, tuple(data["history"]), data.get("summary") or {}))
    return tuple(runs)


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json of a stage; UserError where it is none."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("history"), list):
        raise UserError(f"{path} has no history; it is written by embervlm train.")
    return data


def _name_of(folder: Path, stage: int, history: Sequence[Mapping[str, float]]) -> tuple[str, Kind]:
    """Whether a stage had a teacher: as its checkpoints say, else its curves, else its place; Stage 1 has none unless
    something says so."""
    checkpoints = sorted(folder.glob("checkpoint-*/training_args.json"), key=lambda path: path.stat().st_mtime)
    known = training_args(checkpoints[-1].parent) if checkpoints else {}
    shares = [entry[name] for entry in history if (name := f"stage{stage}/target_share") in entry]
    if "teacher" in known:
        taught = known["teacher"] is not None
    elif shares:
        taught = any(share > 0 for share in shares)
    else:
        taught = stage == 2 and folder.parent.name != UNDISTILLED
    if stage == 1:
        return "Stage 1, with teacher" if taught else "Stage 1", "other"
    return ("with teacher", "student") if taught else ("without teacher", "undistilled")


def training_args(checkpoint: str | Path | None) -> dict[str, Any]:
    """The training_args.json of a checkpoint, {} where there is none any more."""
    path = Path(checkpoint or "") / "training_args.json"
    data = read_json(path) if path.is_file() else {}
    return data if isinstance(data, dict) else {}


def trained(result: EvalResult) -> dict[str, Any]:
    """How the checkpoint of a result was trained, {} where that is not known any more."""
    return training_args(result.settings.get("checkpoint"))


def taught(result: EvalResult) -> bool | None:
    """Whether the checkpoint of a result had a teacher; None: it does not say."""
    known = trained(result)
    return known["teacher"] is not None if "teacher" in known else None


def settings_of(result: EvalResult) -> dict[str, Any]:
    """How the student was really trained, and how it was asked."""
    known = trained(result)
    given = dict(known.get("settings", {}))
    if "teacher" in known:
        given["teacher_model"] = known["teacher"]  # of a cache, whatever the flag's default says
        if known["teacher"] is None:
            given = {name: value for name, value in given.items() if name not in OF_A_TEACHER}
    if "warmup_steps" in known:
        given["warmup_steps"] = known["warmup_steps"]  # as the training capped it
    shown = {name: given[name] for name in TOLD if given.get(name) is not None}
    shown |= {name: ", ".join(map(str, value)) for name, value in shown.items() if isinstance(value, list)}
    most = result.settings.get("max_samples")
    return shown | ({} if most is None else {"questions of each benchmark": most})


def from_elsewhere(run_dir: Path, paths: Sequence[Path], results: Sequence[EvalResult]) -> str:
    """A sentence where evaluations are of checkpoints outside of the run whose curves stand beside them, else ""."""
    home, found = run_dir.resolve(), {}
    for path, result in zip(paths, results, strict=True):
        named = result.settings.get("checkpoint")
        place = find_path(named, path.parent) or (Path(named) if named else None)
        if place is not None and not place.resolve().is_relative_to(home):
            found[str(path)] = str(named)
    if not found:
        return ""
    told = ", ".join(f"{path} of {checkpoint}" for path, checkpoint in found.items())
    return (
        f"Curves and times of training are those of {run_dir}; these evaluations are of checkpoints elsewhere and say "
        f"nothing about it: {told}."
    )
