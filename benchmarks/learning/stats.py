"""Means over seeds, differences to SFT paired by seed, and two intervals for each: over seeds and over pictures.

Both are needed. Over seeds (Student's t) says whether another order of the data would give the same; over pictures (a
bootstrap of whole pictures, whose questions hang together) says whether another test set would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from embervlm.evaluate.resampling import bootstrap_interval

Interval = tuple[float, float]
DRAWS = 2000

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantiles of Student's t for 1 to 9 degrees of freedom."""


def over_seeds(values: Sequence[float]) -> Interval | None:
    """95% interval of the mean, Student's t; None for a single value."""
    count = len(values)
    if count < 2:
        return None
    quantile = T_975[count - 2] if count - 2 < len(T_975) else 1.96
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - quantile * error, mean + quantile * error


def over_pictures(scores: np.ndarray, pictures: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Interval:
    """95% percentile interval of the mean of `scores` [questions], from drawing whole pictures with replacement."""
    return bootstrap_interval(scores, np.random.default_rng(seed), pictures, draws)


DIGITS = "0123456789a"


def written(tenths: Sequence[int]) -> str:
    """Scores of questions in tenths, 0 to 10, a character each: with ten annotators VQA accuracy is a tenth."""
    return "".join(DIGITS[score] for score in tenths)


def read(text: str) -> np.ndarray:
    """[questions], points."""
    return 10.0 * np.array([DIGITS.index(character) for character in text])


def mean_scores(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[questions] in points: the mean over cells of each question's score."""
    return np.mean([read(cell["tenths"]) for cell in cells], axis=0)


def compare(
    arm: Mapping[int, Mapping[str, Any]], sft: Mapping[int, Mapping[str, Any]], pictures: Sequence[str]
) -> dict[str, Any]:
    """An arm of one regime, in points; `arm` and `sft` hold measured cells by seed.

    The difference is over the seeds that both have; pairs that share a seed read the data in the same order.
    """
    seeds = sorted(arm)
    accuracies = [100 * arm[seed]["report"]["accuracy"] for seed in seeds]
    found: dict[str, Any] = {
        "seeds": len(seeds),
        "accuracy": float(np.mean(accuracies)),
        "over_seeds": over_seeds(accuracies),
        "parts": parts(list(arm.values())),
    }
    both = [seed for seed in seeds if seed in sft]
    if both:
        differences = [100 * (arm[s]["report"]["accuracy"] - sft[s]["report"]["accuracy"]) for s in both]
        question = mean_scores([arm[s] for s in both]) - mean_scores([sft[s] for s in both])
        found["gain"] = {
            "mean": float(np.mean(differences)),
            "over_seeds": over_seeds(differences),
            "over_pictures": over_pictures(question, pictures),
        }
    return found


def parts(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over cells by kind of question, in points; KL in nats a token, calibration error as a share."""
    kinds: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "yes/no": lambda cell: _points(cell["report"]["by_answer_type"].get("yes/no")),
        "number": lambda cell: _points(cell["report"]["by_answer_type"].get("number")),
        "other": lambda cell: _points(cell["report"]["by_answer_type"].get("other")),
        "without yes/no": lambda cell: _points(cell["report"]["without_yes_no"]),
        "unseen pairs": lambda cell: _points(cell["unseen"].get("unseen_pairs")),
        "KL": lambda cell: cell["report"].get("kl_teacher_student"),
        "calibration error": lambda cell: cell["report"].get("calibration_error"),
    }
    found = {}
    for name, of in kinds.items():
        values = [value for cell in cells if (value := of(cell)) is not None]
        if values:
            found[name] = float(np.mean(values))
    return found


def mean_curve(cells: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, accuracy in points on the half to stop on), mean over cells; steps that all of them have."""
    by_step = [{int(point["step"]): 100 * point["vqa_accuracy"] for point in cell["curve"]} for cell in cells]
    steps = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    return [(step, float(np.mean([points[step] for points in by_step]))) for step in steps]


def steps_to(curve: Sequence[tuple[int, float]], accuracy: float) -> float | None:
    """The first step at which a curve reaches `accuracy`, between two points on a line; None: never."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value >= accuracy:
            if before is None or value == before[1]:
                return float(step)
            return before[0] + (step - before[0]) * (accuracy - before[1]) / (value - before[1])
        before = step, value
    return None


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share
