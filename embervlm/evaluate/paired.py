"""Paired bootstrap: systems that answered the same questions are resampled together, so that what is hard for all of
them cancels out of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
_AT_ONCE = 4_000_000
"""Counts held at once: so many draws as fit."""


@dataclass(frozen=True)
class Difference:
    """Mean over the questions of one system's score minus another's. In the scores' unit, 0 to 1."""

    mean: float
    interval: tuple[float, float]  # 95%, percentile bootstrap over questions
    above: float  # share of the draws where the difference is above 0
    p: float  # two-sided, of no difference: (1 + draws on the rarer side of 0, ties counted) / (1 + draws), doubled


@dataclass(frozen=True)
class Paired:
    """Systems over the same questions; `differences` are to the first one."""

    n: int
    means: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    differences: tuple[Difference, ...]  # of the second, the third, ...


def paired_bootstrap(scores: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Paired:
    """Means, their 95% intervals and their differences to the first system.

    A draw resamples the questions for both systems of a difference alike, so it is a draw of the mean of the single
    differences. What is said of two systems does not depend on a third.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16.

    Args:
        scores: [systems, questions], float, question j the same for all.
        draws: resamples of the questions.
    """
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores have the shape {scores.shape}; expected [systems, questions], one question at least")
    differences = np.round(scores[1:] - scores[0], 12)  # 0.9 - 0.6 is 0.3
    return Paired(
        scores.shape[1],
        tuple(float(mean) for mean in scores.mean(1)),
        tuple(_interval(_drawn_means(values, draws, seed)) for values in scores),
        tuple(_difference(float(values.mean()), _drawn_means(values, draws, seed)) for values in differences),
    )


def _drawn_means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means [draws] of as many values, drawn from `values` [n] with replacement."""
    # Equal values are alike: how often each distinct one is drawn is multinomial.
    levels, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(counts))
    parts = [
        rng.multinomial(len(values), counts / len(values), size=min(step, draws - start)) @ levels
        for start in range(0, draws, step)
    ]
    return np.concatenate(parts) / len(values)


def _difference(mean: float, drawn: np.ndarray) -> Difference:
    # Sums of tenths in another order are not equal to the last digit; a tie must be one.
    drawn = np.where(np.abs(drawn) < 1e-12, 0.0, drawn)
    rarer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + rarer) / (1 + len(drawn)))
    return Difference(float(mean), _interval(drawn), float((drawn > 0).mean()), p)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def points(share: float, sign: bool = False) -> str:
    """A share as percentage points: 0.1234 -> "12.3", signed "+12.3"."""
    return minus(round(100 * share, 1), 1, sign)


def minus(value: float, digits: int, sign: bool = False) -> str:
    """A number with a real minus, and a plus where `sign` asks for it; nothing before 0."""
    return (f"{value:+.{digits}f}" if sign and value else f"{value + 0.0:.{digits}f}").replace("-", "−")


def span(interval: Sequence[float], sign: bool = False) -> str:
    """An interval in points: "−1.2 to 3.4"."""
    return f"{points(interval[0], sign)} to {points(interval[1], sign)}"
