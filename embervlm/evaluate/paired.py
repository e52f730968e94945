"""Paired bootstrap: systems that answered the same questions are resampled together, so that what is hard for all of
them cancels out of their differences. Whole pictures are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embervlm.evaluate.resampling import drawn_means, interval_of

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Mean over the questions of one system's score minus another's. In the scores' unit, 0 to 1."""

    mean: float
    interval: tuple[float, float]  # 95%, percentile bootstrap over pictures
    above: float  # share of the draws where the difference is above 0
    p: float  # two-sided, of no difference: (1 + draws on the rarer side of 0, ties counted) / (1 + draws), doubled


@dataclass(frozen=True)
class Paired:
    """Systems over the same questions; `differences` are to the first one."""

    n: int
    means: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    differences: tuple[Difference, ...]  # of the second, the third, ...


def paired_bootstrap(
    scores: np.ndarray, draws: int = DRAWS, seed: int = 0, pictures: Sequence[str] | None = None
) -> Paired:
    """Means, their 95% intervals and their differences to the first system.

    A draw resamples the pictures for both systems of a difference alike, so it is a draw of the mean of the single
    differences. What is said of two systems does not depend on a third.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16.

    Args:
        scores: [systems, questions], float, question j the same for all.
        draws: resamples.
        pictures: of each question, which are drawn as a whole; None: every question is drawn by itself.
    """
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores have the shape {scores.shape}; expected [systems, questions], one question at least")

    def drawn(values: np.ndarray) -> np.ndarray:
        return drawn_means(values, pictures, draws, np.random.default_rng(seed))

    differences = np.round(scores[1:] - scores[0], 12)  # 0.9 - 0.6 is 0.3
    return Paired(
        scores.shape[1],
        tuple(float(mean) for mean in scores.mean(1)),
        tuple(interval_of(drawn(values)) for values in scores),
        tuple(_difference(float(values.mean()), drawn(values)) for values in differences),
    )


def _difference(mean: float, drawn: np.ndarray) -> Difference:
    # Sums of tenths in another order are not equal to the last digit; a tie must be one.
    drawn = np.where(np.abs(drawn) < 1e-12, 0.0, drawn)
    rarer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + rarer) / (1 + len(drawn)))
    return Difference(float(mean), interval_of(drawn), float((drawn > 0).mean()), p)


def points(share: float, sign: bool = False) -> str:
    """A share as percentage points: 0.1234 -> "12.3", signed "+12.3"."""
    return minus(round(100 * share, 1), 1, sign)


def minus(value: float, digits: int, sign: bool = False) -> str:
    """A number with a real minus, and a plus where `sign` asks for it; nothing before 0."""
    return (f"{value:+.{digits}f}" if sign and value else f"{value + 0.0:.{digits}f}").replace("-", "−")


def span(interval: Sequence[float], sign: bool = False) -> str:
    """An interval in points: "−1.2 to 3.4"."""
    return f"{points(interval[0], sign)} to {points(interval[1], sign)}"
