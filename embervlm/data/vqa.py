"""VQA-v2 and OK-VQA: a questions file and its annotations file, joined on question_id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from embervlm.data.official import BadRow, Piece, Read, ask, cut, read, text
from embervlm.data.record import Record
from embervlm.data.rows import list_of, parse, scan_object
from embervlm.errors import UserError

ANSWER_TYPES = ("yes/no", "number", "other")


def read_vqa(questions: Path, annotations: Path | None, template: str = "{question}") -> Read:
    """VQA-v2. The response is the file's `multiple_choice_answer`, the most common one; all ten stay for scoring."""
    return read(VqaFiles(questions, annotations, "vqa", template))


def read_okvqa(questions: Path, annotations: Path | None, template: str = "{question}") -> Read:
    """OK-VQA. Trained on `raw_answer`, scored against the stemmed `answer`, as its own scorer does."""
    return read(VqaFiles(questions, annotations, "okvqa", template))


class _Ids(msgspec.Struct):
    question_id: Any = None


_ids = msgspec.json.Decoder(_Ids)


class VqaFiles:
    """The two files of "vqa" (VQA-v2) or "okvqa" (OK-VQA); `unlabelled`: there may be questions without an annotation,
    or no annotations at all, and they become records without an answer."""

    def __init__(
        self, questions: Path, annotations: Path | None, kind: str, template: str, unlabelled: bool = False
    ) -> None:
        if annotations is None and not unlabelled:
            raise UserError(f"{questions} was given without its annotations file; pass --{kind}_annotations")
        asked = scan_object(questions, "a VQA questions file")
        self._questions = list_of(asked, "questions")
        if self._questions is None:
            raise UserError(f"{questions} has no list 'questions'; is it the annotations file?")
        said = scan_object(annotations, "a VQA annotations file") if annotations else {}
        self._notes = list_of(said, "annotations") if annotations else []
        if self._notes is None:
            raise UserError(f"{annotations} has no list 'annotations'; is it the questions file?")
        self.path = questions
        subset = _text_of(asked, "data_subtype") or _text_of(said, "data_subtype") or _subset(questions)
        self.maker = VqaMaker(kind, subset, template, unlabelled)
        place = {key: i for i, key in enumerate(map(_question_id, self._notes)) if key is not None}
        self._joined = [place.get(key) if (key := _question_id(raw)) is not None else None for raw in self._questions]
        if annotations and self._questions and all(at is None for at in self._joined):
            raise UserError(
                f"no question of {questions} has an annotation in {annotations}; they belong to different sets"
            )

    def __len__(self) -> int:
        return len(self._joined)

    def pieces(self) -> Iterator[Piece]:
        assert self._questions is not None and self._notes is not None
        for rows in cut(self._questions):
            pairs = []
            for number, raw in rows:
                at = self._joined[number]
                pairs.append((number, (bytes(raw), None if at is None else bytes(self._notes[at]))))
            yield Piece(self.maker, str(self.path), pairs)


@dataclass(frozen=True)
class VqaMaker:
    """A question with its annotation, both as they stand in their files."""

    kind: str  # "vqa" or "okvqa"
    subset: str
    template: str
    unlabelled: bool = False  # a question without an annotation is a record that nobody has answered

    def make(self, number: int, row: tuple[bytes, bytes | None]) -> Record:
        question = parse(row[0])
        text(question, "question")
        if row[1] is None:
            if self.unlabelled:
                image = _image_name(question.get("image_id"), self.subset)
                return vqa_record(question, self.kind, image, self.template, unlabelled=True)
            raise BadRow(
                f"question {question.get('question_id')} has no annotation (--unlabelled keep makes records of such)"
            )
        note = parse(row[1])
        if str(note.get("image_id")) != str(question.get("image_id")):
            raise BadRow(
                f"question {question.get('question_id')} is about image {question.get('image_id')}, "
                f"its annotation about {note.get('image_id')}"
            )
        if not note.get("answers"):
            raise BadRow(f"question {question.get('question_id')} has no answers")
        image = _image_name(question.get("image_id"), self.subset)
        return vqa_record(note | question, self.kind, image, self.template)


def vqa_record(row: dict[str, Any], kind: str, image: str, template: str, unlabelled: bool = False) -> Record:
    """A question and its annotation in one row, as the converted sets have them too; BadRow where it cannot be used.
    `unlabelled`: the row has a question alone."""
    question = text(row, "question")
    number = row.get("question_id")
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        raise BadRow(f"question_id is {number!r}; expected a number")
    answers: list[str] | None = None
    response = row.get("multiple_choice_answer")
    response = response.strip() if isinstance(response, str) else ""
    if not unlabelled and (row.get("answers") is not None or not response):
        answers = answers_of(row, "answer")
    if answers is not None and (kind == "okvqa" or not response):
        response = majority(answers_of(row, "raw_answer" if kind == "okvqa" else "answer"))
    answer_type = str(row.get("answer_type"))
    return Record(
        id=f"{kind}-{number}",
        image=image,
        instruction=ask(template, question),
        response=response,
        answers=None if answers is None else tuple(answers),
        answer_type=None if unlabelled else answer_type if answer_type in ANSWER_TYPES else "other",
        metadata={
            "source": "ok_vqa" if kind == "okvqa" else "vqa_v2",
            "difficulty": "high" if kind == "okvqa" else "medium",
            "question_id": number,
            "question": question,
            "question_type": str(row.get("question_type", "")),
        },
    )


def majority(answers: list[str]) -> str:
    """The most common answer that says something; the first among equals, as Counter keeps their order."""
    return Counter(said for answer in answers if (said := answer.strip())).most_common(1)[0][0]


def answers_of(note: Any, key: str) -> list[str]:
    """The people's answers; converted files hold texts instead of objects."""
    number = note.get("question_id") if isinstance(note, dict) else None
    rows = note.get("answers") if isinstance(note, dict) else None
    if not isinstance(rows, list) or not rows:
        raise BadRow(f"question {number} has no answers")
    answers = [str(row.get(key, row.get("answer", ""))) if isinstance(row, dict) else str(row) for row in rows]
    if not any(answer.strip() for answer in answers):
        raise BadRow(f"question {number} has only empty answers")
    return answers


def _question_id(raw: msgspec.Raw) -> str | None:
    """As text, since files mix numbers and texts; None where a row has none."""
    try:
        found = _ids.decode(raw).question_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if found is None else str(found)


def _image_name(image_id: Any, subset: str) -> str:
    try:
        return f"COCO_{subset}_{int(image_id):012d}.jpg"
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"image_id is {image_id!r}; expected a number") from None


def _text_of(values: dict[str, msgspec.Raw], key: str) -> str:
    try:
        value = parse(values[key])
    except (KeyError, BadRow):
        return ""
    return value if isinstance(value, str) else ""


def _subset(questions: Path) -> str:
    """From the official file name, where the file itself does not say."""
    known = [name for name in ("train2014", "val2014", "test-dev2015", "test2015") if name in questions.name]
    if not known:
        raise UserError(
            f"{questions} does not say which pictures it is about (no data_subtype); expected e.g. 'train2014'"
        )
    return known[0]
