"""Which checkpoints of a run stay, and which step is the best one.

checkpoint-final is always the step that `best_global_step` names, also after a resume: from another folder, by another
metric, or from a step before the one that was the best of a branch that is given up.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.model.modeling import EmberVLM
from embervlm.train import checkpoint as files

LOSS = "eval_loss"
History = Sequence[Mapping[str, Any]]


def score(entry: Mapping[str, float], prefix: str, metric: str) -> tuple[float, float]:
    """What is compared of an evaluation, higher is better: the metric (a loss negated), of equals the lower loss. A
    value that is no number is the worst."""
    values = entry[prefix + metric] * (-1 if metric == LOSS else 1), -entry[prefix + LOSS]
    return tuple(-math.inf if math.isnan(value) else value for value in values)  # type: ignore[return-value]


def scores(history: History, prefix: str, metric: str) -> dict[int, tuple[float, float]]:
    """Step -> score, of the evaluations that measured the metric."""
    return {entry["step"]: score(entry, prefix, metric) for entry in history if prefix + metric in entry}


def is_best(history: History, prefix: str, metric: str, best: int | None) -> bool:
    """Whether the last evaluation is as good as that of step `best`, which checkpoint-final holds, if there is one."""
    found = scores(history, prefix, metric)
    return best not in found or found[max(found)] >= found[best]


def settle_best(folder: Path, resumed: Path, history: History, prefix: str, metric: str) -> int | None:
    """Before a resumed run goes on: makes checkpoint-final the best step whose weights are still there, and names it.

    Args:
        folder: of the run that goes on; `resumed` may lie in another one.
        history: of the checkpoint that it continues.

    Returns:
        None: of no evaluated step are they there; the next evaluation will be the best.
    """
    found = scores(history, prefix, metric)
    for step in sorted(found, key=lambda step: (found[step], step), reverse=True):
        for place in dict.fromkeys((folder, resumed.parent)):
            for path in (place / files.FINAL, place / f"checkpoint-{step}"):
                if _is_of(path, step, history):
                    if path != folder / files.FINAL:
                        _copy(path, folder / files.FINAL)
                    return step
    return None


def _is_of(path: Path, step: int, history: History) -> bool:
    """Whether a checkpoint is this step of this history, and not of a branch that was given up."""
    try:
        files.open_checkpoint(path)
        state = json.loads((path / files.STATE).read_text(encoding="utf-8"))
    except (UserError, OSError):
        return False
    log = state.get("log_history")
    if state.get("global_step") != step or not isinstance(log, list):
        return False
    return json.dumps(log) == json.dumps(history[: len(log)])  # as text, where NaN equals NaN


def _copy(path: Path, target: Path) -> None:
    """As a checkpoint-final: with model.safetensors. Whole or not at all."""
    partial = files.partial_of(target)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(path, partial)
        model = EmberVLM.from_pretrained(path)
        files.save_model(model, model.processor, partial, safetensors=True)
        files.publish(target)
    except OSError as error:
        raise files.not_written(target, error, f"{path} is whole") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Rotation:
    """Deletes the oldest checkpoint-N of this run beyond a limit; those of another run in the folder stay."""

    def __init__(self, folder: Path, limit: int | None, resumed: Path | None) -> None:
        self._folder, self._limit = folder, limit
        self._steps: set[int] = set()
        if resumed is not None and resumed.resolve().parent == folder.resolve():
            begun = files.open_checkpoint(resumed).step
            there = [re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")]
            self._steps = {int(one[1]) for one in there if one and int(one[1]) <= begun}

    def written(self, step: int) -> None:
        """To be called when checkpoint-`step` is whole."""
        self._steps.add(step)
        while self._limit and len(self._steps) > self._limit:
            oldest = min(self._steps)
            self._steps.remove(oldest)
            shutil.rmtree(self._folder / f"checkpoint-{oldest}", ignore_errors=True)
