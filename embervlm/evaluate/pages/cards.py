"""Questions with their picture and everybody's answer, as the pages of evaluation and comparison show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from embervlm.data.images import resolve_image
from embervlm.errors import UserError
from embervlm.evaluate.pages.examples import picture_data_uri
from embervlm.evaluate.pages.report_inputs import Said
from embervlm.evaluate.pages.templates import verdict
from embervlm.evaluate.questions import Answered, title_of
from embervlm.evaluate.vqa import question_type

if TYPE_CHECKING:
    from embervlm.data.record import Record

THUMBNAIL = 280
"""Longest side of a picture on a page, in pixels."""

WORST_WEIGHT = 4.0
"""How much likelier an answer that scores 0 is shown than one that scores 1."""

UNTYPED = "free text"
"""Answer type of a question that has none."""


@dataclass(frozen=True)
class Card:
    """One question on a page."""

    benchmark: str  # "VQA"
    answer_type: str
    question_type: str
    picture: str  # CSS class, "" without a picture
    question: str
    said: tuple[Said, ...]
    reference: str
    humans: tuple[tuple[str, int], ...]  # what people answered and how many, most first; () where nobody was asked
    verdict: str  # of the first answer
    id: str


class Album:
    """Pictures of one page. Each is embedded once, as a class of its style sheet, however many cards show it."""

    def __init__(self, image_root: Path) -> None:
        self.image_root = image_root
        self.missing = 0
        self._classes: dict[str, str] = {}
        self._rules: list[str] = []

    def add(self, name: str | None) -> str:
        """The class that shows this picture; "" for no picture, or one that is not there any more."""
        if name is None:
            return ""
        if name not in self._classes:
            self._classes[name] = self._embed(name)
        return self._classes[name]

    def _embed(self, name: str) -> str:
        try:
            uri, small = picture_data_uri(resolve_image(self.image_root, name), THUMBNAIL)
        except UserError:
            self.missing += 1
            return ""
        css = f"p{len(self._rules)}"
        sharp = ";image-rendering:pixelated" if small else ""
        self._rules.append(f".{css}{{background-image:url({uri}){sharp}}}")
        return css

    @property
    def css(self) -> Markup:
        return Markup("\n".join(self._rules))


def make_card(benchmark: str, record: Record, said: Sequence[Said], album: Album) -> Card:
    return Card(
        benchmark=title_of(benchmark),
        answer_type=record.answer_type or UNTYPED,
        question_type=kind_of(record),
        picture=album.add(record.image),
        question=record.instruction,
        said=tuple(said),
        reference=record.response,
        humans=tuple(Counter(record.answers or ()).most_common()),
        verdict=verdict(said[0].score),
        id=record.id,
    )


def kind_of(record: Record) -> str:
    """The question type, "free text" where the data set knows none."""
    kind = question_type(record)
    return UNTYPED if kind == "unknown" and not record.answers else kind


def choose(questions: Mapping[str, Sequence[Answered]], most: int, seed: int = 0) -> list[tuple[str, Answered]]:
    """At most so many (benchmark, question), worst first, drawn by `seed`: an answer that scores 0 with `WORST_WEIGHT`,
    one that scores 1 with weight 1, without replacement, from each benchmark as many as from the others."""
    rng = np.random.default_rng(seed)
    chosen: list[tuple[str, Answered]] = []
    left = most
    # The smallest first: what it does not need goes to the others.
    order = sorted(questions, key=lambda name: len(questions[name]))
    for place, name in enumerate(order):
        share = min(len(questions[name]), left // (len(order) - place))
        left -= share
        chosen += [(name, question) for question in _draw(questions[name], share, rng)]
    names = list(questions)
    return sorted(chosen, key=lambda entry: (entry[1].score, names.index(entry[0])))


def _draw(questions: Sequence[Answered], count: int, rng: np.random.Generator) -> list[Answered]:
    weights = np.array([1 + (WORST_WEIGHT - 1) * (1 - question.score) for question in questions])
    if count == 0:
        return []
    some = rng.choice(len(questions), count, replace=False, p=weights / weights.sum())
    return [questions[at] for at in sorted(some)]
