"""What took how long in a run, for its report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from embervlm.evaluate.pages.report_inputs import TrainingRun
from embervlm.evaluate.results import EvalResult, read_json

_VERBS = {
    "toy": "Draw the pictures",
    "prepare": "Read the files into records",
    "answer": "The teacher answers what nobody answered",
    "cache": "The teacher reads every answer",
    "train": "Training",
    "evaluate": "Evaluation",
}

Phases = tuple[tuple[str, float], ...]
"""(what, seconds), in order."""


def demo_phases(path: Path) -> Phases:
    """From `demo.json`, which maps each command of a demo to its seconds."""
    spent = read_json(path)
    if not isinstance(spent, Mapping):
        return ()
    commands = {command: shlex.split(command) for command in spent}
    return tuple((_title(words), float(spent[at])) for at, words in commands.items() if words[1:2] != ["report"])


def measured_phases(runs: Sequence[TrainingRun], results: Sequence[EvalResult]) -> Phases:
    """From the summaries of training and the evaluations themselves."""
    spent = []
    for run in runs:
        if (seconds := run.summary.get("seconds")) is not None:
            spent.append((run.name if run.stage == 1 else f"Stage {run.stage}, {run.name}", float(seconds)))
    for result in results:
        if result.seconds:
            spent.append((f"Evaluation: {result.system.replace('_', ' ')}", sum(result.seconds.values())))
    return tuple(spent)


def _title(words: Sequence[str]) -> str:
    """ "embervlm train --stages 2 --disable_distillation ..." -> "Stage 2, without teacher"."""
    verb = words[1] if len(words) > 1 else ""
    following = dict(zip(words, words[1:], strict=False))
    if verb == "train" and (stage := following.get("--stages")):
        if stage == "1":
            return "Stage 1, with teacher" if "--no_disable_distillation" in words else "Stage 1"
        if stage != "2":
            return f"Stage {stage}"
        return "Stage 2, " + ("without teacher" if "--disable_distillation" in words else "with teacher")
    if verb == "evaluate" and (file := following.get("--output_file")):
        return f"Evaluation: {Path(file).stem}"
    if verb == "evaluate":
        return "Evaluation: the others"
    return _VERBS.get(verb, " ".join(words[:2]))
