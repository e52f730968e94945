"""Evaluations as a person names them, with what their training left: a result file, or a folder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.errors import UserError
from embervlm.evaluate.pages.training import read_metrics
from embervlm.evaluate.questions import find_path
from embervlm.evaluate.results import EvalResult, is_result, load_result, read_json

METRICS = "metrics.json"


@dataclass(frozen=True)
class Run:
    """One evaluation, and the training of its checkpoint as far as that is at hand."""

    name: str  # the end of its path, as long as it takes to tell it from the others
    path: Path  # of the result
    result: EvalResult
    history: tuple[Mapping[str, float], ...] = ()  # of both stages' metrics.json
    trained: Mapping[str, Any] | None = None  # settings of the training


def open_runs(places: Sequence[Path]) -> list[Run]:
    """The evaluations at these places, all of the same split of the same data.

    Raises:
        UserError: fewer than two, one twice, no result there, a damaged one, another split, other data.
    """
    if len(places) < 2:
        raise UserError(
            f"embervlm compare takes two evaluations or more, found {len(places)}: embervlm compare results/a.json "
            "results/b.json"
        )
    paths = [_result_of(place) for place in places]
    whole = [path.resolve() for path in paths]
    for place, path in enumerate(whole):
        if path in whole[:place]:
            raise UserError(f"{paths[place]} is named twice; name different evaluations.")
    results = [load_result(path) for path in paths]
    first = results[0]
    for path, result in zip(paths[1:], results[1:], strict=True):
        if result.split != first.split:
            raise UserError(
                f"{path} was made on split {result.split}, {paths[0]} on {first.split}; compare evaluations of one "
                "split."
            )
        if result.data != first.data:
            raise UserError(
                f"{path} was made on other data (fingerprint {result.data}) than {paths[0]} ({first.data}); evaluate "
                "both on the same prepared data set: embervlm evaluate --dataset_path ..."
            )
    names = _names([place if place.is_dir() else place.with_suffix("") for place in places])
    return [_run(*entry) for entry in zip(names, paths, results, places, strict=True)]


def _result_of(place: Path) -> Path:
    if not place.is_dir():
        if not place.exists():
            raise UserError(f"{place} does not exist; name a result of embervlm evaluate, or a folder that holds one.")
        return place
    found = [path for folder in (place, place / "results") for path in sorted(folder.glob("*.json")) if is_result(path)]
    if len(found) > 1:
        students = [path for path in found if load_result(path).system == "student"]
        if len(students) != 1:
            several = ", ".join(str(path) for path in found)
            raise UserError(f"{place} holds several evaluations; name the one that is meant: {several}")
        found = students
    if not found:
        raise UserError(
            f"{place} holds no result of embervlm evaluate, nor does {place / 'results'}; run embervlm evaluate first, "
            "or name its file."
        )
    return found[0]


def _run(name: str, path: Path, result: EvalResult, place: Path) -> Run:
    stages: list[Path] = []
    trained: Mapping[str, Any] | None = None
    if checkpoint := find_path(result.settings.get("checkpoint"), path.parent):
        stages = [checkpoint.parent.parent / "stage1", checkpoint.parent]
        if (args := checkpoint / "training_args.json").is_file():
            data = read_json(args)
            settings = data.get("settings") if isinstance(data, dict) else None
            if isinstance(settings, dict):  # a run without distillation has had no teacher, whatever the default says
                trained = settings | ({"teacher_model": data["teacher"]} if "teacher" in data else {})
    if not any((stage / METRICS).is_file() for stage in stages) and place.is_dir() and result.system == "student":
        home = place / "outputs" if (place / "outputs").is_dir() else place
        stages = [home, home / "stage1", home / "stage2"]
    stages = list(dict.fromkeys(stages))
    history = [
        row for stage in stages if (stage / METRICS).is_file() for row in read_metrics(stage / METRICS)["history"]
    ]
    return Run(name, path, result, tuple(history), trained)


def _names(places: Sequence[Path]) -> list[str]:
    parts = [place.resolve().parts for place in places]
    names = []
    for mine in parts:
        depth = 1
        while depth < len(mine) and sum(other[-depth:] == mine[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(mine[-depth:]))
    return names


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What was set differently: "evaluation: max_samples" -> the value of each run, None where a run does not say.

    A setting counts where two runs or more know it.
    """
    sides: dict[str, list[Mapping[str, Any]]] = {
        "evaluation": [run.result.settings for run in runs],
        "training": [run.trained or {} for run in runs],
        "machine": [run.result.environment for run in runs],
    }
    found = {}
    for side, settings in sides.items():
        for name in dict.fromkeys(name for known in settings for name in known if name not in _ALWAYS):
            values = [known[name] for known in settings if name in known]
            if len(values) > 1 and any(value != values[0] for value in values):
                found[f"{side}: {name}"] = [known.get(name) for known in settings]
    return found


_ALWAYS = ("output_file", "output_dir", "page", "page_questions")
"""Settings that name where things go; no two runs agree on them, and nothing follows from it."""
