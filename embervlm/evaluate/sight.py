"""Does a model look at the picture: its answers with it beside its answers without it, on the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from embervlm.evaluate.paired import paired_bootstrap, points, span

if TYPE_CHECKING:
    from embervlm.evaluate.results import EvalResult

MARGIN = 0.05
"""A model that loses less than this without the picture does not look at it."""

UNSEEING: dict[str, str] = {
    "blind": "without it",
    "mean_picture": "with the mean picture",
    "shuffled_pictures": "with another's picture",
}
"""`EvalResult.system` of a student whose picture was taken away -> how, in a sentence."""

Verdict = Literal["looks", "ignores", "unknown"]


@dataclass(frozen=True)
class Sight:
    """What seeing brings. Accuracies are 0 to 1."""

    n: int
    seeing: float
    unseeing: float
    how: str  # "without it"
    interval: tuple[float, float] | None  # of the gain, 95%, paired; None: the single answers are not at hand

    @property
    def gain(self) -> float:
        return self.seeing - self.unseeing

    @property
    def verdict(self) -> Verdict:
        """Whether the gain may be as large as `MARGIN`, and whether it may be nothing."""
        low, high = self.interval or (self.gain, self.gain)
        if high < MARGIN:
            return "ignores"
        return "looks" if low > 0 and self.gain >= MARGIN else "unknown"

    def sentence(self, name: str = "The student") -> str:
        """The verdict with its figures."""
        both = f"{100 * self.seeing:.1f}% with the picture, {100 * self.unseeing:.1f}% {self.how}"
        if self.verdict == "looks":
            sure = "" if self.interval is None else f" (95% interval {span(self.interval)})"
            return f"{name} gains {points(self.gain)} points from seeing{sure}: {both}, on the same {self._asked}."
        sure = "" if self.interval is None else f", 95% interval {span(self.interval, sign=True)}"
        figures = f"{both} ({points(self.gain, sign=True)} points{sure}, on the same {self._asked})"
        if self.verdict == "ignores":
            return f"{name} ignores the picture: {figures}."
        return f"Whether {_lower(name)} looks at the picture cannot be told: {figures}."

    @property
    def _asked(self) -> str:
        return f"{self.n:,} question" + ("s" if self.n != 1 else "")


def measure_sight(
    seeing: Mapping[str, float],
    unseeing: Mapping[str, float],
    how: str = UNSEEING["blind"],
    pictures: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Sight | None:
    """From the scores of both (question -> 0 to 1), on the questions that both were asked; None: there are none.

    Args:
        pictures: question -> its picture, drawn as a whole for the interval; None: questions are.
    """
    common = [key for key in seeing if key in unseeing]
    if not common:
        return None
    scores = np.array([[side[key] for key in common] for side in (unseeing, seeing)])
    shown = None if pictures is None else [pictures[key] for key in common]
    paired = paired_bootstrap(scores, seed=seed, pictures=shown)
    return Sight(paired.n, paired.means[1], paired.means[0], how, paired.differences[0].interval)


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:] if name.startswith("The ") else name


def sight_of(
    seeing: EvalResult,
    unseeing: EvalResult,
    seeing_scores: Mapping[str, Mapping[str, float]],
    unseeing_scores: Mapping[str, Mapping[str, float]],
    pictures: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Sight | None:
    """What the picture brings on VQA, else on OK-VQA; None where not both were asked.

    Args:
        seeing_scores, unseeing_scores: benchmark -> question -> score. Where they are not at hand the results' means
            are compared, without an interval.
        pictures: question -> its picture.
    """
    benchmark = next((name for name in ("vqa", "okvqa") if name in seeing.vqa and name in unseeing.vqa), None)
    if benchmark is None:
        return None
    how = UNSEEING.get(unseeing.system, UNSEEING["blind"])
    if benchmark in seeing_scores and benchmark in unseeing_scores:
        return measure_sight(seeing_scores[benchmark], unseeing_scores[benchmark], how, pictures, seed)
    with_picture, without = seeing.vqa[benchmark].overall, unseeing.vqa[benchmark].overall
    return Sight(without.n, with_picture.accuracy, without.accuracy, how, None)
