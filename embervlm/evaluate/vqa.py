"""VQA accuracy as the official VQA-v2 scorer gives it, over one answer and over a set of questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embervlm.evaluate.answers import normalise, strip_blanks

if TYPE_CHECKING:
    from embervlm.data.record import Record

BOOTSTRAP_DRAWS = 1000
ENOUGH_MATCHES = 3  # an answer that three of the other humans gave counts in full


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official VQA-v2 accuracy of one answer, 0 to 1: mean over the humans of min(1, matches among the others / 3).

    Strings are normalised only where the humans disagree (as the official code does), so "Yes." against ten times
    "yes" scores 0. Leave-one-out goes by place in the list. One answer alone (no ten humans known) counts as ten.
    """
    given = strip_blanks(prediction)
    humans = [strip_blanks(answer) for answer in answers]
    if len(humans) == 1:
        return float(given == humans[0])
    if len(set(humans)) > 1:
        given = normalise(given)
        humans = [normalise(answer) for answer in humans]
    matches = humans.count(given)
    # A human who agrees has one match less among the others. In whole numbers, so that 0.9 is 0.9.
    agreeing = matches * min(ENOUGH_MATCHES, matches - 1)
    others = (len(humans) - matches) * min(ENOUGH_MATCHES, matches)
    return (agreeing + others) / (ENOUGH_MATCHES * len(humans)) if humans else 0.0


def record_accuracy(prediction: str, record: Record) -> float:
    """VQA accuracy against the humans' answers, or against the response alone where there are none."""
    return vqa_accuracy(prediction, record.answers or (record.response,))


def is_exact(prediction: str, record: Record) -> bool:
    """Plain equality with the reference response, blanks at the ends aside: the guide's `predicted == truth`."""
    return strip_blanks(prediction) == strip_blanks(record.response)


@dataclass(frozen=True)
class Share:
    """Accuracy over some questions; shares between 0 and 1."""

    n: int
    accuracy: float
    exact_match: float
    interval: tuple[float, float]  # 95%, percentile bootstrap over questions


@dataclass(frozen=True)
class VqaScores:
    """A benchmark's accuracy: overall, and by what the questions are."""

    overall: Share
    without_yes_no: Share | None  # None: only yes/no questions
    by_answer_type: dict[str, Share]
    by_question_type: dict[str, Share]


def score_vqa(records: Sequence[Record], predictions: Sequence[str], seed: int = 0) -> VqaScores:
    """Scores of `predictions`, one per record. Question types are `metadata["question_type"]`."""
    if not records or len(records) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(records)} records")
    accuracy = np.array([record_accuracy(p, r) for p, r in zip(predictions, records, strict=True)])
    exact = np.array([is_exact(p, r) for p, r in zip(predictions, records, strict=True)])
    rng = np.random.default_rng(seed)

    def share(chosen: Iterable[int]) -> Share:
        index = np.fromiter(chosen, dtype=np.int64)
        interval = bootstrap_interval(accuracy[index], rng)
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
        by_answer_type={kind: share(answer_types[kind]) for kind in sorted(answer_types, key=_answer_type_order)},
        by_question_type={kind: share(question_types[kind]) for kind in sorted(question_types)},
    )


def question_type(record: Record) -> str:
    return str(record.metadata.get("question_type") or "unknown")


def bootstrap_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` [n], from resampling them with replacement."""
    if len(values) == 1:
        return float(values[0]), float(values[0])
    levels, counts = np.unique(values, return_counts=True)
    # How often each distinct value is drawn is multinomial: a million questions cost as much as ten.
    drawn = rng.multinomial(len(values), counts / len(values), size=BOOTSTRAP_DRAWS)
    low, high = np.percentile(drawn @ levels / len(values), [2.5, 97.5])
    return float(low), float(high)


def _answer_type_order(kind: str) -> tuple[int, str]:
    usual = ("yes/no", "number", "other")
    return (usual.index(kind) if kind in usual else len(usual), kind)
