"""Checkpoints on disk: whole or not there, checked before use, never unpickled.

checkpoint-500/   pytorch_model.bin  optimizer.pt  scheduler.pt  config.json  training_args.json
                  trainer_state.json  rng_state.pth  and the processor's files
checkpoint-final/ the same for the best step, and model.safetensors
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from embervlm.errors import UserError
from embervlm.files import write_whole

FINAL = "checkpoint-final"
WEIGHTS, SAFE_WEIGHTS = "pytorch_model.bin", "model.safetensors"
OPTIMIZER, SCHEDULER, STATE = "optimizer.pt", "scheduler.pt", "trainer_state.json"
CONFIG, TRAINING_ARGS = "config.json", "training_args.json"


def partial_of(target: Path) -> Path:
    """Where a checkpoint grows until it is whole. Hidden, so that nothing takes it for a checkpoint."""
    return target.with_name(f".{target.name}.partial")


def replaced_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def not_written(target: Path, error: Exception, comfort: str) -> UserError:
    """What is said about a checkpoint that did not get onto the disk. torch says nothing of a full one."""
    free = shutil.disk_usage(target.parent).free / 2**20
    reason = str(error) if isinstance(error, OSError) else "the write ended early"
    return UserError(f"{target} could not be written ({reason}; {free:,.0f} MB are free there); {comfort}.")


def publish(target: Path) -> None:
    """Rename the grown folder to its name; an older folder of that name goes away only afterwards."""
    replaced = replaced_of(target)
    if target.exists():
        os.rename(target, replaced)
    os.rename(partial_of(target), target)
    shutil.rmtree(replaced, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Undo what a killed run left behind: drop partial checkpoints, bring back one that was being replaced."""
    for path in folder.glob(".checkpoint-*"):
        name = re.fullmatch(r"\.(checkpoint-\w+)\.(partial|replaced)", path.name)
        if name is None:
            continue
        target = folder / name[1]
        if name[2] == "replaced" and not target.exists():
            os.rename(path, target)
        else:
            shutil.rmtree(path)


def save_model(model: Any, processor: Any, folder: Path, *, safetensors: bool) -> None:
    """Weights (always pytorch_model.bin), configuration and processor files, as `from_pretrained` reads them."""
    if safetensors:
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    torch.save(on_cpu(model.state_dict()), folder / WEIGHTS)
    if safetensors:
        shutil.copymode(folder / WEIGHTS, folder / SAFE_WEIGHTS)  # safetensors writes for the owner alone
    processor.save_pretrained(folder)


def on_cpu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is saved from a GPU would be loaded onto one, and fail where there is none. Tied weights stay one."""
    moved: dict[tuple[int, torch.Size], torch.Tensor] = {}
    return {name: moved.setdefault((value.data_ptr(), value.shape), value.cpu()) for name, value in state.items()}


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, readable by people."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder says about itself."""

    path: Path
    stage: int
    step: int
    config: dict[str, Any]
    training_args: dict[str, Any]  # {"stage", "settings": {flag: value}, ...}
    resumable: bool  # optimizer, scheduler and trainer state are there

    @property
    def preset(self) -> str | None:
        return self.config.get("preset")


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's own description.

    Raises:
        UserError: no such folder (names what is there instead), or something of it is missing or unreadable.
    """
    if not path.is_dir():
        raise UserError(f"There is no checkpoint {path}; {_instead(path)}")
    config, training_args = (_read_json(path, name) for name in (CONFIG, TRAINING_ARGS))
    if not (path / WEIGHTS).is_file() and not (path / SAFE_WEIGHTS).is_file():
        raise UserError(
            f"{path} has neither {WEIGHTS} nor {SAFE_WEIGHTS}: it was not copied or written to its end. "
            "Copy it again or take another checkpoint."
        )
    stage = training_args.get("stage")
    if stage not in (1, 2):
        raise UserError(f"{path / TRAINING_ARGS} says stage {stage!r}; stages are 1 and 2.")
    state = _read_json(path, STATE) if (path / STATE).is_file() else {}
    step, settings = state.get("global_step", 0), training_args.get("settings", {})
    if type(step) is not int or step < 0:
        raise UserError(f"{path / STATE} says global_step {step!r}, expected a number: take another checkpoint.")
    if not isinstance(settings, dict):
        raise UserError(
            f"{path / TRAINING_ARGS} says settings {settings!r}, expected an object: take another checkpoint."
        )
    resumable = all((path / name).is_file() for name in (OPTIMIZER, SCHEDULER, STATE))
    return Checkpoint(path, stage, step, config, training_args, resumable)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {name}: it is not a checkpoint of EmberVLM, or it was not copied to its end."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): the checkpoint is damaged, take another one.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, expected an object: the checkpoint is damaged.")
    return content


def _instead(path: Path) -> str:
    """What a person may have meant."""
    parent = path.parent
    there = sorted((p.name for p in parent.glob("checkpoint-*")), key=_by_step) if parent.is_dir() else []
    if there:
        return f"{parent} has {', '.join(there)}."
    if parent.name == "stage1":
        return f"{parent} has none: train Stage 1 first (--stages 1, or --stages 1,2 for both)."
    return f"{parent} has none."


def _by_step(name: str) -> tuple[int, str]:
    step = name.removeprefix("checkpoint-")
    return (int(step) if step.isdigit() else 10**12, name)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint-N with the highest N, or None."""
    steps = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return max(steps, key=lambda path: _by_step(path.name), default=None)
