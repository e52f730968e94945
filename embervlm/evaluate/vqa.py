"""VQA accuracy as the official VQA-v2 scorer gives it, over one answer and over a set of questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embervlm.evaluate.answers import normalise, strip_blanks, without_punctuation
from embervlm.evaluate.resampling import bootstrap_interval, pictures_of

if TYPE_CHECKING:
    from embervlm.data.record import Record

ENOUGH_MATCHES = 3  # an answer that three of the other humans gave counts in full


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: str = "official") -> float:
    """VQA-v2 accuracy of one answer, 0 to 1: mean over the humans of min(1, matches among the others / 3).

    The official scorer normalises strings only where the humans disagree, so "Yes." against ten times "yes" scores 0.
    Leave-one-out goes by place in the list. One answer alone (no ten humans known) counts as ten.

    Args:
        variant: a key of `VARIANTS`; they differ in what is normalised.
    """
    given, humans = VARIANTS[variant](prediction, answers)
    if len(humans) == 1:
        return float(given == humans[0])
    matches = humans.count(given)
    # A human who agrees has one match less among the others. In whole numbers, so that 0.9 is 0.9.
    agreeing = matches * min(ENOUGH_MATCHES, matches - 1)
    others = (len(humans) - matches) * min(ENOUGH_MATCHES, matches)
    return (agreeing + others) / (ENOUGH_MATCHES * len(humans)) if humans else 0.0


Compared = tuple[str, list[str]]


def _official(prediction: str, answers: Sequence[str]) -> Compared:
    given, humans = strip_blanks(prediction), [strip_blanks(answer) for answer in answers]
    if len(set(humans)) == 1:
        return given, humans
    return normalise(given), [normalise(answer) for answer in humans]


def _always(prediction: str, answers: Sequence[str]) -> Compared:
    return normalise(strip_blanks(prediction)), [normalise(strip_blanks(answer)) for answer in answers]


def _before_2021(prediction: str, answers: Sequence[str]) -> Compared:
    unanimous = len(set(answers)) == 1
    humans = list(answers) if unanimous else [without_punctuation(answer) for answer in answers]
    return normalise(strip_blanks(prediction)), humans


VARIANTS: dict[str, Callable[[str, Sequence[str]], Compared]] = {
    "official": _official,
    "lmms-eval": _always,
    "pre-2021": _before_2021,
}
"""What is compared: as the official scorer does it since a013f004 (2021-03); as lmms-eval's vqav2 does (both sides
always normalised); as the official scorer did before (the prediction always normalised, the humans' answers stripped of
punctuation where they disagree), which LAVIS still does."""


def record_accuracy(prediction: str, record: Record, variant: str = "official") -> float:
    """VQA accuracy against the humans' answers, or against the response alone where there are none."""
    return vqa_accuracy(prediction, record.answers or (record.response,), variant)


def is_exact(prediction: str, record: Record) -> bool:
    """Plain equality with the reference response, blanks at the ends aside: the guide's `predicted == truth`."""
    return strip_blanks(prediction) == strip_blanks(record.response)


@dataclass(frozen=True)
class Share:
    """Accuracy over some questions; shares between 0 and 1."""

    n: int
    accuracy: float
    exact_match: float
    interval: tuple[float, float]  # 95%, percentile bootstrap over pictures


@dataclass(frozen=True)
class VqaScores:
    """A benchmark's accuracy: overall, and by what the questions are."""

    overall: Share
    without_yes_no: Share | None  # None: only yes/no questions
    by_answer_type: dict[str, Share]
    by_question_type: dict[str, Share]
    variants: dict[str, float]  # overall accuracy as others compute it, a key of VARIANTS each


def score_vqa(records: Sequence[Record], predictions: Sequence[str], seed: int = 0) -> VqaScores:
    """Scores of `predictions`, one per record. Question types are `metadata["question_type"]`."""
    if not records or len(records) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(records)} records")
    accuracy = np.array([record_accuracy(p, r) for p, r in zip(predictions, records, strict=True)])
    exact = np.array([is_exact(p, r) for p, r in zip(predictions, records, strict=True)])
    pictures = np.array(pictures_of(records))
    rng = np.random.default_rng(seed)

    def share(chosen: Iterable[int]) -> Share:
        index = np.fromiter(chosen, dtype=np.int64)
        interval = bootstrap_interval(accuracy[index], rng, pictures[index])
        return Share(len(index), float(accuracy[index].mean()), float(exact[index].mean()), interval)

    answer_types: dict[str, list[int]] = defaultdict(list)
    question_types: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        answer_types[record.answer_type or "unknown"].append(at)
        question_types[question_type(record)].append(at)
    not_yes_no = [at for at, record in enumerate(records) if record.answer_type != "yes/no"]
    return VqaScores(
        overall=share(range(len(records))),
        without_yes_no=share(not_yes_no) if not_yes_no else None,
        by_answer_type={kind: share(answer_types[kind]) for kind in sorted(answer_types, key=answer_type_order)},
        by_question_type={kind: share(question_types[kind]) for kind in sorted(question_types)},
        variants={
            name: float(np.mean([record_accuracy(p, r, name) for p, r in zip(predictions, records, strict=True)]))
            for name in VARIANTS
            if name != "official"
        },
    )


def question_type(record: Record) -> str:
    return str(record.metadata.get("question_type") or "unknown")


def answer_type_order(kind: str) -> tuple[int, str]:
    usual = ("yes/no", "number", "other")
    return (usual.index(kind) if kind in usual else len(usual), kind)
